//go:build tools

// Package tools keeps the server's main package in this module's requirements.
package tools

import _ "github.com/temporalio/cli/cmd/temporal"
