package billing

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

// idEncoding is Crockford's base 32 in lower case: no i, l, o or u, and texts
// sort as the bytes do.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

const (
	timeBytes   = 6  // 48 bits of Unix milliseconds, until the year 10889
	randomBytes = 10 // 80 bits: no collision is to be expected within a millisecond
)

// NewID returns a fresh id: the prefix, an underscore and 26 characters that
// sort by the given time to the millisecond, in no order within one. The rest
// is random, so an id tells no one how many others there are.
func NewID(prefix string, now time.Time) string {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	var b [timeBytes + randomBytes]byte
	copy(b[:], ms[len(ms)-timeBytes:])
	rand.Read(b[timeBytes:]) // never fails: it ends the program instead
	return prefix + "_" + idEncoding.EncodeToString(b[:])
}
