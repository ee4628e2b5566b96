package state

const childMode = "EBBGATE_STATE_TEST_CHILD"

func child(string) int { return 0 }
