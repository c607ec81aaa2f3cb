//go:build !unix

package billingtest

import "time"

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }
