package watch

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// watching starts a Watcher; what it tells arrives in the channel, the first time
// when it stands.
func watching(t *testing.T, files ...string) <-chan []string {
	t.Helper()
	told := make(chan []string, 64)
	w := &Watcher{
		Files:   func() []string { return files },
		Changed: func(names []string) { told <- names },
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { defer close(over); w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-over })
	if got := next(t, told); !slices.Equal(got, files) {
		t.Fatalf("at the start it told of %q", got)
	}
	return told
}

func next(t *testing.T, told <-chan []string) []string {
	t.Helper()
	select {
	case names := <-told:
		return names
	case <-time.After(20 * time.Second): // less than poll: it was told, and did not look
		t.Fatal("it tells nothing")
		return nil
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts a file in the place of another, at once.
func replace(t *testing.T, path, content string) {
	t.Helper()
	put(t, path+".new", content)
	must(t, os.Rename(path+".new", path))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestChanges(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir, path string){
		"written in place": func(t *testing.T, _, path string) { put(t, path, "b") },
		"appended": func(t *testing.T, _, path string) {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteString("more")
			must(t, err)
			must(t, f.Close())
		},
		"replaced by rename": func(t *testing.T, dir, path string) {
			put(t, filepath.Join(dir, ".swp"), "b")
			must(t, os.Rename(filepath.Join(dir, ".swp"), path))
		},
		"moved away and written anew, as vim does": func(t *testing.T, _, path string) {
			must(t, os.Rename(path, path+"~"))
			put(t, path, "b")
			must(t, os.Remove(path+"~"))
		},
		"removed": func(t *testing.T, _, path string) { must(t, os.Remove(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "connector.yaml")
			put(t, path, "a")
			told := watching(t, path)
			change(t, dir, path)
			if got := next(t, told); !slices.Equal(got, []string{path}) {
				t.Errorf("it told of %q", got)
			}
		})
	}
}

// TestLinks: a file that is a link, and one in a folder that is a link, as a
// Kubernetes ConfigMap has them, change where the links lead elsewhere.
func TestLinks(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	put(t, filepath.Join(elsewhere, "real.yaml"), "a")
	link := filepath.Join(dir, "link.yaml")
	must(t, os.Symlink(filepath.Join(elsewhere, "real.yaml"), link))
	for _, version := range []string{"v1", "v2"} {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		put(t, filepath.Join(dir, version, "map.yaml"), version)
	}
	must(t, os.Symlink("v1", filepath.Join(dir, "..data")))
	mapped := filepath.Join(dir, "map.yaml")
	must(t, os.Symlink(filepath.Join("..data", "map.yaml"), mapped))

	told := watching(t, link, mapped)
	replace(t, filepath.Join(elsewhere, "real.yaml"), "b")
	if got := next(t, told); !slices.Equal(got, []string{link}) {
		t.Errorf("it told of %q", got)
	}
	must(t, os.Symlink("v2", filepath.Join(dir, "..new")))
	must(t, os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	if got := next(t, told); !slices.Equal(got, []string{mapped}) {
		t.Errorf("it told of %q", got)
	}
	replace(t, filepath.Join(dir, "v2", "map.yaml"), "in the new folder")
	if got := next(t, told); !slices.Equal(got, []string{mapped}) {
		t.Errorf("it told of %q", got)
	}
}

// TestNoChange: other files, and times, are nothing. The change that comes last
// shows that they were seen.
func TestNoChange(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "connector.yaml")
	put(t, path, "a")
	told := watching(t, path)
	put(t, filepath.Join(dir, "other"), "x")
	must(t, os.Chtimes(path, time.Now(), time.Now()))
	must(t, os.Chmod(path, 0o640))
	<-time.After(2 * settle)
	replace(t, path, "a") // the same again
	<-time.After(2 * settle)
	if len(told) > 0 {
		t.Errorf("it told of %q", <-told)
	}
	put(t, path, "b")
	next(t, told)
}

// TestComesBack: a file that went is noticed when it is there again, with what it
// held too.
func TestComesBack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "connector.yaml")
	put(t, path, "a")
	told := watching(t, path)
	must(t, os.Remove(path))
	next(t, told)
	put(t, path, "a")
	next(t, told)
}

// TestIrregular: what is no file is not opened, which would wait for a writer.
func TestIrregular(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "connector.yaml")
	must(t, os.Mkdir(path, 0o700))
	told := watching(t, path, filepath.Join(dir, "absent", "file"))
	must(t, os.Remove(path))
	put(t, path, "a")
	next(t, told)
}
