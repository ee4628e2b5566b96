package tunnel

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// acceptLanes takes the streams that the peer opens.
func (s *Session) acceptLanes(ctx context.Context) {
	joining := make(chan struct{}, maxJoining)
	for {
		stream, err := s.link.AcceptStream(ctx)
		if err != nil {
			return
		}
		select {
		case joining <- struct{}{}:
			s.tasks.Go(func() { s.acceptLane(ctx, stream, joining) })
		default:
			_ = stream.Close()
		}
	}
}

func (s *Session) acceptLane(ctx context.Context, stream Stream, joining chan struct{}) {
	var join Join
	_ = stream.SetReadDeadline(time.Now().Add(joinTimeout))
	err := readFrame(stream, maxJoin, &join)
	if err == nil {
		err = stream.SetReadDeadline(time.Time{})
	}
	<-joining
	if err != nil || s.cfg.Lane == nil {
		s.cfg.Logger.Debug("lane refused", "error", err)
		_ = stream.Close()
		return
	}
	s.classify(stream, join)
	s.cfg.Lane(ctx, s, join, stream)
}

func (s *Session) classify(stream Stream, join Join) {
	if join.Express {
		prioritize(stream, urgencyExpress)
	} else {
		prioritize(stream, urgencyBulk)
	}
}

// OpenLane opens a stream and writes its preamble. The peer's Lane receives it.
func (s *Session) OpenLane(ctx context.Context, join Join) (Stream, error) {
	preamble, err := encodeFrame(join, maxJoin)
	if err != nil {
		return nil, err
	}
	stream, err := s.link.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	s.classify(stream, join)
	_ = stream.SetWriteDeadline(time.Now().Add(joinTimeout))
	_, err = stream.Write(preamble)
	if err == nil {
		err = stream.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("tunnel: open lane: %w", err)
	}
	return stream, nil
}

// LaneExporter is keying material of the link that only its two ends know,
// different for each stream (RFC 8446 §7.5; the context is the stream's number
// in eight bytes).
func (s *Session) LaneExporter(stream Stream) ([]byte, error) {
	state := s.link.ConnectionState()
	return state.ExportKeyingMaterial(laneLabel, binary.BigEndian.AppendUint64(nil, stream.StreamID()), exporterLength)
}

// EnrolExporter is the keying material that a proof of possession signs.
func (s *Session) EnrolExporter() ([]byte, error) {
	state := s.link.ConnectionState()
	return state.ExportKeyingMaterial(certs.EnrolLabel, nil, exporterLength)
}
