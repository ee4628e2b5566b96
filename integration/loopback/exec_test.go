package loopback

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// childEnv makes this test's binary the command of an exec: it does what the variable says.
const childEnv = "EBBGATE_TEST_JOB"

// childJob is what such a command does.
type childJob struct {
	Way     string // port, connect, socks5
	Host    string // of the store, for the proxies
	Script  oracle.Script
	Upload  int64
	Ignore  bool   // how the copy ended
	Exit    int    // after a copy that ended well
	Started string // a file that it makes
}

// The exit code of a command whose copy did not end well.
const copyFailed = 9

// childMain runs the command, if this process is one.
func childMain() {
	text, ok := os.LookupEnv(childEnv)
	if !ok {
		return
	}
	var c childJob
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	if c.Started != "" {
		if err := os.WriteFile(c.Started, nil, 0o600); err != nil {
			panic(err)
		}
	}
	conn, err := c.dial()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(copyFailed)
	}
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	j := oracle.Job{Script: c.Script, Upload: c.Upload, End: oracle.EndFIN, Observe: func(n int64) {
		if n > 1<<20 {
			fmt.Println("under way")
		}
	}}
	outcome, err := j.Run(conn)
	fmt.Println(outcome, err)
	if !c.Ignore && (!outcome.Complete() || err != nil) {
		os.Exit(copyFailed)
	}
	os.Exit(c.Exit)
}

func (c childJob) dial() (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch c.Way {
	case "port":
		return dial(ctx, os.Getenv("EBBGATE_STORE_OBJECTS"))
	case "connect":
		u, err := url.Parse(os.Getenv("HTTPS_PROXY"))
		if err != nil {
			return nil, err
		}
		password, _ := u.User.Password()
		return rig.Ingress{Addr: u.Host, Job: u.User.Username(), Token: password}.Dial(ctx, c.Host)
	case "socks5":
		u, err := url.Parse(os.Getenv("all_proxy"))
		if err != nil {
			return nil, err
		}
		password, _ := u.User.Password()
		d, err := proxy.SOCKS5("tcp", u.Host, &proxy.Auth{User: u.User.Username(), Password: password}, nil)
		if err != nil {
			return nil, err
		}
		conn, err := d.Dial("tcp", c.Host)
		if err != nil {
			return nil, err
		}
		return conn.(*net.TCPConn), nil
	}
	return nil, errors.New("there is no such way")
}

// job is what a command beside the company's job is told.
func (c *company) job(t *testing.T) rig.JobOptions {
	return rig.JobOptions{Dir: filepath.Join(t.TempDir(), "job"), Relay: c.relay.Address, Token: c.ingress.Token, Carriers: []string{c.carrier}}
}

// startExec starts an exec of this binary.
func startExec(t *testing.T, o rig.JobOptions, target string, j childJob, lines func(string)) *proc.Process {
	t.Helper()
	body, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Env = append(o.Env, childEnv+"="+string(body))
	spec, err := o.Exec(rig.Program{Path: binary}, []string{target}, self)
	if err != nil {
		t.Fatal(err)
	}
	spec.Lines = lines
	p, err := proc.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	watch(t, p, false)
	return p
}

// wantExec checks how an exec ended: with this code, and with one stream for this reason.
func wantExec(ctx context.Context, t *testing.T, p *proc.Process, o rig.JobOptions, exit, child int, reason string) rig.StreamSummary {
	t.Helper()
	if code := rig.ExitCode(p.Wait(ctx)); code != exit {
		t.Errorf("exit %d, want %d", code, exit)
	}
	s, err := o.ReadSummary()
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	if reason != "ok" {
		failed = 1
	}
	if s.Exit != child || s.Streams != 1 || s.Failed != failed || len(s.Last) != 1 {
		t.Fatalf("%+v, want exit %d and one stream", s, child)
	}
	if !strings.Contains(reason, s.Last[0].Reason) || s.Last[0].Target != "corp/objects" {
		t.Errorf("%+v, want reason %s", s.Last[0], reason)
	}
	return s.Last[0]
}

// TestExec runs commands that copy by each way that exec gives them.
func TestExec(t *testing.T) {
	t.Parallel()
	const size, upload = 5 << 20, 3 << 20
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	_, port, err := net.SplitHostPort(c.store.Addr())
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimSuffix(c.host(store), "0") + port
	good := oracle.Script{Seed: 7, Send: size, End: oracle.EndFIN, UploadSeed: 8}
	for _, way := range []string{"port", "connect", "socks5"} {
		for _, exit := range []int{0, 3} {
			t.Run(fmt.Sprintf("%s, exit %d", way, exit), func(t *testing.T) {
				o := c.job(t)
				p := startExec(t, o, c.target(store), childJob{Way: way, Host: host, Script: good, Upload: upload, Exit: exit}, nil)
				s := wantExec(ctx, t, p, o, exit, exit, "ok")
				if s.BytesRead != size || s.BytesWritten < upload {
					t.Errorf("%+v", s)
				}
			})
		}
		t.Run(way+", a reset that the command ignores", func(t *testing.T) {
			o := c.job(t)
			broken := good
			broken.End = oracle.EndReset
			p := startExec(t, o, c.target(store), childJob{Way: way, Host: host, Script: broken, Ignore: true}, nil)
			wantExec(ctx, t, p, o, 125, 0, "store-reset")
		})
	}
	t.Run("by an alias", func(t *testing.T) {
		named := rig.Loopback("named", c.store.Addr())
		named.Aliases = []string{"DB.lab.example:" + port}
		c.newConnector(ctx, t, "aliased", named)
		o := c.job(t)
		o.Token = c.newJob(ctx, t, "by-alias", "named").Token
		p := startExec(t, o, c.target("named"), childJob{Way: "socks5", Host: "db.LAB.example:" + port, Script: good, Upload: upload}, nil)
		if err := p.Wait(ctx); err != nil {
			t.Error(err)
		}
		// The name is the store's, whatever it was dialled as.
		if s, err := o.ReadSummary(); err != nil || len(s.Last) != 1 || s.Last[0].Target != "corp/named" {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("a reset that the command sees", func(t *testing.T) {
		o := c.job(t)
		broken := good
		broken.End = oracle.EndReset
		p := startExec(t, o, c.target(store), childJob{Way: "port", Script: broken}, nil)
		wantExec(ctx, t, p, o, copyFailed, copyFailed, "store-reset")
	})
}

// TestExecDoesNotBegin: a command whose stores cannot be had is not started.
func TestExecDoesNotBegin(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	for name, change := range map[string]func(o *rig.JobOptions) (target, code, hop string){
		"relay off": func(o *rig.JobOptions) (string, string, string) {
			o.Relay = rig.FreePort(t)
			return c.target(store), "connection-refused", "tcp"
		},
		"store not allowed": func(*rig.JobOptions) (string, string, string) {
			return c.target("other"), "job-not-allowed", "relay"
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.job(t)
			target, code, hop := change(&o)
			started := filepath.Join(t.TempDir(), "started")
			p := startExec(t, o, target, childJob{Way: "port", Started: started}, nil)
			var e *rig.CommandError
			if err := rig.Failure(ctx, p); !errors.As(err, &e) || e.Exit != 1 || e.Code != code || e.Hop != hop || e.Advice == "" {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(started); err == nil {
				t.Error("the command was started")
			}
		})
	}
}

// underWay gives what notices that a command's copy is under way.
func underWay() (lines func(string), begun <-chan struct{}) {
	once := make(chan struct{}, 1)
	return func(line string) {
		if line == "under way" {
			select {
			case once <- struct{}{}:
			default:
			}
		}
	}, once
}

// TestExecSignal: signals reach the command, and how it ends is how exec ends.
func TestExecSignal(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			o := c.job(t)
			lines, begun := underWay()
			slow := oracle.Script{Seed: 1, Send: endless, Pause: 2 * time.Millisecond, End: oracle.EndFIN}
			p := startExec(t, o, c.target(store), childJob{Way: "port", Script: slow}, lines)
			select {
			case <-begun:
			case <-p.Done():
			case <-ctx.Done():
			}
			if err := p.Signal(sig); err != nil {
				t.Fatal(err)
			}
			// The command ends as Go programs do that do not catch it.
			wantExec(ctx, t, p, o, 128+int(sig), 128+int(sig), "job-reset")
		})
	}
}

// TestKilledConnectorBesideTheJob kills the connector in mid-copy: no exec and no dial calls that a good end.
func TestKilledConnectorBesideTheJob(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	slow := oracle.Script{Seed: 1, Send: endless, Pause: 2 * time.Millisecond, End: oracle.EndFIN}
	execs, dials := c.job(t), c.job(t)
	lines, begun := underWay()
	p := startExec(t, execs, c.target(store), childJob{Way: "connect", Host: c.host(store), Script: slow, Ignore: true}, lines)
	out := newOutput(1 << 20)
	d := startDial(t, dials, c.target(store), bytes.NewReader(slow.Encode()), out)
	for _, event := range []<-chan struct{}{begun, out.reached} {
		select {
		case <-event:
		case <-ctx.Done():
			t.Fatal("the copies make no progress")
		}
	}
	c.connector.Kill()
	wantExec(ctx, t, p, execs, 125, 0, "lanes-lost end-restarted")
	var e *rig.CommandError
	if err := rig.Failure(ctx, d); !errors.As(err, &e) || e.Exit != 1 || e.Code == "" || e.Hop == "" || e.Advice == "" {
		t.Errorf("dial: %v", err)
	}
}
