package billing_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestPeriodsFollowEachOther(t *testing.T) {
	t.Parallel()
	day := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	for _, x := range []struct {
		period         billing.Period
		at, start, end time.Time
	}{
		{billing.Daily, day(11, 30).Add(24*time.Hour - 1), day(11, 30), day(12, 1)},
		{billing.Weekly, day(11, 25), day(11, 22), day(11, 29)},
		{billing.Weekly, day(11, 29), day(11, 29), day(12, 6)}, // a Sunday
		{billing.Monthly, day(2, 28), day(2, 1), day(3, 1)},
		{billing.Monthly, day(12, 31), day(12, 1), day(13, 1)},
		// Still November in New York.
		{billing.Monthly, day(12, 1).In(time.FixedZone("New York", -5*3600)), day(12, 1), day(13, 1)},
		{billing.Never, day(11, 25), time.Unix(0, 0).UTC(), time.Time{}},
	} {
		got, want := [2]time.Time{x.period.Start(x.at), x.period.End(x.at)}, [2]time.Time{x.start, x.end}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s of %s (-want +got):\n%s", x.period, x.at, diff)
		}
	}
}
