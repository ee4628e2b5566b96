package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// part is one process of a path, with its children.
type part struct {
	name string // near the relay, the node, or the job: "relay", "node", "job"
	pid  int
}

// tick is the unit of times in /proc/PID/stat (USER_HZ is 100 on every Linux that Go runs on).
const tick = 10 * time.Millisecond

// process is what /proc/PID/stat says of one.
type process struct {
	parent int
	cpu    time.Duration // its own, and that of children that it waited for
}

// processes reads all processes.
func processes() (map[int]process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	all := make(map[int]process, len(files))
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		_, rest, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(") "))
		f := strings.Fields(string(rest))
		if !ok || len(f) < 15 {
			continue
		}
		var p process
		p.parent, _ = strconv.Atoi(f[1])
		for _, field := range f[11:15] { // utime, stime, cutime, cstime
			n, _ := strconv.ParseInt(field, 10, 64)
			p.cpu += time.Duration(n) * tick
		}
		all[pid] = p
	}
	return all, nil
}

// family returns a process and its descendants.
func family(all map[int]process, pid int) []int {
	members := []int{pid}
	for i := 0; i < len(members); i++ {
		for child, p := range all {
			if p.parent == members[i] {
				members = append(members, child)
			}
		}
	}
	return members
}

// cpuOf returns the CPU time that each part has used so far.
func cpuOf(parts []part) (map[string]time.Duration, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	cpu := make(map[string]time.Duration)
	for _, p := range parts {
		for _, pid := range family(all, p.pid) {
			cpu[p.name] += all[pid].cpu
		}
	}
	return cpu, nil
}

// memoryOf returns each part's memory in bytes: its resident pages, shared ones in proportion. What the kernel keeps
// for sockets is not in it.
func memoryOf(parts []part) (map[string]int64, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	memory := make(map[string]int64)
	for _, p := range parts {
		for _, pid := range family(all, p.pid) {
			rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
			if err != nil {
				return nil, fmt.Errorf("bench: memory of %s: %w", p.name, err)
			}
			for line := range strings.Lines(string(rollup)) {
				if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
					n, _ := strconv.ParseInt(f[1], 10, 64)
					memory[p.name] += n << 10
				}
			}
		}
	}
	return memory, nil
}
