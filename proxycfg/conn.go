package proxycfg

import "net"

// Conn is a tunnel on which the destination's first bytes came together with
// the proxy's answer. Like any connection it has one reader.
type Conn struct {
	net.Conn
	buffered []byte
}

// Read gives the buffered bytes first.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.buffered) > 0 {
		n := copy(p, c.buffered)
		c.buffered = c.buffered[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// CloseWrite ends the direction to the destination.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// Unwrap gives the bytes that were not read yet and the connection under them.
// The caller may go on with either the two or c.
func (c *Conn) Unwrap() (buffered []byte, conn net.Conn) { return c.buffered, c.Conn }
