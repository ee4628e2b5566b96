//go:build !unix

package bundle

func newSource(sock Socket, s *Stream) source { return plainSource{sock, s} }
