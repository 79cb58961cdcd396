// hello answers every request with one page that names its pod.
package main

import (
	"fmt"
	"html"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		os.Exit(0)
	}()
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	page := fmt.Sprintf("<!doctype html>\n<title>Hello from Keelson</title>\n<h1>Hello from Keelson</h1>\n<p>This page comes from pod %s.</p>\n", html.EscapeString(host))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, page)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", nil))
	os.Exit(1)
}
