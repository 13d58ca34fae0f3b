"""The `kpvo` command. Every subcommand imports what it needs only when it runs."""
