package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

// maxPage is the most elements that the API answers at once.
const maxPage = 500

// paging are the flags of a command that lists.
type paging struct {
	limit  int
	cursor string
	all    bool
}

func (p *paging) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&p.limit, "limit", 50, "the most elements to list, 1 to 500")
	flags.StringVar(&p.cursor, "cursor", "", "where to go on: the next_cursor of the page before")
	flags.BoolVar(&p.all, "all", false, "list all, however many there are")
}

// addList makes a command list what is at a path and the query selects; nil
// selects all.
func addList[T any](cmd *cobra.Command, s *settings, path string, query func() (url.Values, error), v view[T]) {
	var p paging
	p.addTo(cmd)
	cmd.RunE = s.run(func(ctx context.Context, s *session, _ []string) error {
		var q url.Values
		if query != nil {
			var err error
			if q, err = query(); err != nil {
				return err
			}
		}
		return list(ctx, s, &p, path, q, v)
	})
}

// page is a page of a list as the API answers it.
type page struct {
	Data       []json.RawMessage `json:"data"`
	NextCursor *string           `json:"next_cursor"`
}

// view is how elements are shown: a row for each.
type view[T any] struct {
	columns []column
	row     func(T) []string
}

// list asks for a page, or all of them, and prints them as JSON or as a table.
func list[T any](ctx context.Context, s *session, p *paging, path string, query url.Values, v view[T]) error {
	found, raw, err := p.read(ctx, s, path, query)
	if err != nil {
		return err
	}
	if s.json {
		if p.all {
			if raw, err = json.Marshal(found); err != nil {
				return fmt.Errorf("write the list: %w", err)
			}
		}
		return printJSON(s.onScreen(false), raw)
	}
	rows := make([][]string, 0, len(found.Data))
	for _, text := range found.Data {
		element, err := decode[T](s.client, text)
		if err != nil {
			return err
		}
		rows = append(rows, v.row(element))
	}
	if err := table(s.out, v.columns, rows); err != nil {
		return err
	}
	if found.NextCursor != nil {
		fmt.Fprintf(s.notes, "There are more: see them with --all, or the next ones with --cursor %s\n", *found.NextCursor)
	}
	return nil
}

// read returns the elements, and the last page as it came.
func (p *paging) read(ctx context.Context, s *session, path string, query url.Values) (page, []byte, error) {
	limit := p.limit
	if p.all {
		limit = maxPage
	}
	if limit < 1 || limit > maxPage {
		return page{}, nil, misusef("--limit must be 1 to %d; --all lists all", maxPage)
	}
	found := page{Data: []json.RawMessage{}}
	for cursor := p.cursor; ; {
		q := url.Values{"limit": {strconv.Itoa(limit)}}
		maps.Copy(q, query)
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		body, err := s.do(ctx, get(path, q))
		if err != nil {
			return page{}, nil, err
		}
		next, err := decode[page](s.client, body)
		if err != nil {
			return page{}, nil, err
		}
		if next.Data == nil {
			return page{}, nil, s.stranger("without a list")
		}
		found.Data, found.NextCursor = append(found.Data, next.Data...), next.NextCursor
		if !p.all || next.NextCursor == nil {
			return found, body, nil
		}
		cursor = *next.NextCursor
	}
}
