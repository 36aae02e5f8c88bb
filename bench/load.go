package main

import "context"

func (c cli) load(ctx context.Context, args []string) error { return nil }
func (c cli) report(args []string) error                    { return nil }
func (c cli) compare(args []string) error                   { return nil }
