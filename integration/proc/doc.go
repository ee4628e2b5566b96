// Package proc runs child processes that never outlive the program that started them, not even when that is killed.
//
// On Linux the kernel kills a child when the thread that forked it ends (PR_SET_PDEATHSIG); so children are forked
// by one thread that lives as long as the program. A Starter may fork them elsewhere, such as in a network
// namespace.
package proc
