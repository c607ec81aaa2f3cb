//go:build unix

package billingtest

import (
	"syscall"
	"time"
)

// cpuTime is what this process has spent of processors, in its own code and in
// the kernel on its behalf.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
