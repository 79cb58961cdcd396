// hello answers every request with one page that names its pod, and shows what is in
// the file $NOTES, if there is one. `hello note` adds a line to that file: for hooks.
package main

import (
	"fmt"
	"html"
	"io/ioutil"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "note" {
		if err := note(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
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
		if notes, err := ioutil.ReadFile(os.Getenv("NOTES")); err == nil {
			fmt.Fprintf(w, "<pre>\n%s</pre>\n", html.EscapeString(string(notes)))
		}
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", nil))
	os.Exit(1)
}

// note says in the file that this pod's hook ran.
func note() error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(os.Getenv("NOTES"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0644)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(file, "pod %s was ended in order\n", host); err != nil {
		return err
	}
	return file.Close()
}
