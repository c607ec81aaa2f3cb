// Package cli is the command line of the management API: commands that ask a
// running gateway, and show what it answers as tables, or as the JSON that it
// is. It knows the API as any other client does, by its documents.
package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// The exit codes of commands.
const (
	exitFailed = 1
	exitMisuse = 2
)

// Commands returns the commands, one for each noun. Their errors are the
// caller's to show: see ExitCode.
func Commands() []*cobra.Command {
	return []*cobra.Command{
		keysCommand(), organizationsCommand(), membersCommand(), invitationsCommand(), creditsCommand(),
		usageCommand(), auditCommand(), tokensCommand(), changesCommand(),
	}
}

// ExitCode is the code that a process ends with for an error of a command: 2
// for a command that was not used as it must be, and 1 for one that failed.
func ExitCode(err error) int {
	if _, ok := errors.AsType[*misuse](err); ok {
		return exitMisuse
	}
	return exitFailed
}

// misuse is the error of a command that could not even be tried.
type misuse struct{ error }

func (m *misuse) Unwrap() error { return m.error }

// Misuse marks an error as one of how a command was used.
func Misuse(err error) error {
	if err == nil {
		return nil
	}
	return &misuse{err}
}

func misusef(format string, args ...any) error { return Misuse(fmt.Errorf(format, args...)) }

// Group makes a command that only holds others refuse what is none of them,
// which cobra would take for a question about the group.
func Group(cmd *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(commands...)
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 || args[0] == "help" {
			return nil
		}
		hint := ""
		if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
			hint = fmt.Sprintf(": did you mean %q?", similar[0])
		}
		return misusef("unknown command %q of %q%s", args[0], cmd.CommandPath(), hint)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 { // help of one
			if found, _, err := cmd.Find(args[1:]); err == nil {
				return found.Help()
			}
		}
		return cmd.Help()
	}
	return cmd
}

// exactly takes the named arguments and no others.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > len(names) {
			return misusef("unexpected argument %q: see %s --help", args[len(names)], cmd.CommandPath())
		}
		for i, name := range names {
			if len(args) <= i {
				return misusef("missing <%s>: see %s --help", name, cmd.CommandPath())
			}
			// A path would take these for a step, or for the list.
			if args[i] == "" || args[i] == "." || args[i] == ".." {
				return misusef("%q is no <%s>", args[i], name)
			}
		}
		return nil
	}
}

// need refuses flags that are not given.
func need(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if !cmd.Flags().Changed(name) {
			return misusef("missing --%s: see %s --help", name, cmd.CommandPath())
		}
	}
	return nil
}
