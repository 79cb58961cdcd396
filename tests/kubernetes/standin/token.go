package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io/ioutil"
	"os"
	"path/filepath"
	"strings"
)

// token is K3s's join token. Its full form pins the server's certificate
// authority: K10<sha256 of the CA's PEM file>::<user>:<password>. The short
// form is the password alone.
type token struct {
	caHash   string
	user     string
	password string
}

const tokenPrefix = "K10"

// parseToken never puts any part of the token into its errors.
func parseToken(text string) (token, error) {
	if !strings.HasPrefix(text, tokenPrefix) {
		return token{password: text}, nil
	}
	halves := strings.SplitN(strings.TrimPrefix(text, tokenPrefix), "::", 2)
	if len(halves) != 2 || len(halves[0]) != 2*sha256.Size {
		return token{}, fmt.Errorf("token: not of the form K10<sha256>::<user>:<password>")
	}
	credentials := strings.SplitN(halves[1], ":", 2)
	if len(credentials) != 2 || credentials[1] == "" {
		return token{}, fmt.Errorf("token: not of the form K10<sha256>::<user>:<password>")
	}
	return token{caHash: halves[0], user: credentials[0], password: credentials[1]}, nil
}

func (t token) String() string {
	return fmt.Sprintf("%s%s::%s:%s", tokenPrefix, t.caHash, t.user, t.password)
}

// checkCA tells whether the CA is the one the token pins, if it pins one.
func (t token) checkCA(pem []byte) error {
	if t.caHash != "" && t.caHash != sha256Hex(pem) {
		return fmt.Errorf("token: the server's certificate authority is not the one this token was made for")
	}
	return nil
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// serverTokens are the two passwords a server accepts from joining nodes.
type serverTokens struct {
	server token
	agent  token
}

// accepts checks the basic authentication of a join request.
func (t serverTokens) accepts(password string) bool {
	for _, known := range []token{t.server, t.agent} {
		if subtle.ConstantTimeCompare([]byte(known.password), []byte(password)) == 1 {
			return true
		}
	}
	return false
}

// loadServerTokens takes the token from the configuration, or from an earlier
// start, or makes one; and writes it below the data directory in full form.
func loadServerTokens(config *Config, caPEM []byte) (serverTokens, error) {
	dir := filepath.Join(config.DataDir, "server")
	path := filepath.Join(dir, "token")
	server, err := parseToken(config.Token)
	if err != nil {
		return serverTokens{}, err
	}
	if err := server.checkCA(caPEM); err != nil {
		return serverTokens{}, err
	}
	stored, err := ioutil.ReadFile(path)
	switch {
	case err == nil:
		old, err := parseToken(strings.TrimSpace(string(stored)))
		if err != nil {
			return serverTokens{}, fmt.Errorf("%s: %v", path, err)
		}
		if server.password != "" && server.password != old.password {
			return serverTokens{}, fmt.Errorf("token: not the one this cluster was made with; it must stay the same")
		}
		server.password = old.password
	case !os.IsNotExist(err):
		return serverTokens{}, err
	case server.password == "":
		if server.password, err = randomHex(16); err != nil {
			return serverTokens{}, err
		}
	}
	server.caHash, server.user = sha256Hex(caPEM), "server"

	agent := token{caHash: server.caHash, user: "node", password: server.password}
	if config.AgentToken != "" {
		given, err := parseToken(config.AgentToken)
		if err != nil {
			return serverTokens{}, fmt.Errorf("agent-token: %v", err)
		}
		agent.password = given.password
		if err := writeFile(filepath.Join(dir, "agent-token"), []byte(agent.String()+"\n"), 0600); err != nil {
			return serverTokens{}, err
		}
	}
	for _, name := range []string{"token", "node-token"} {
		if err := writeFile(filepath.Join(dir, name), []byte(server.String()+"\n"), 0600); err != nil {
			return serverTokens{}, err
		}
	}
	return serverTokens{server: server, agent: agent}, nil
}

func randomHex(size int) (string, error) {
	bytes := make([]byte, size)
	if _, err := rand.Read(bytes); err != nil {
		return "", err
	}
	return hex.EncodeToString(bytes), nil
}

// writeFile replaces a file as a whole, or leaves the old one. When it returns
// the new one survives a cut of power.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0700); err != nil {
		return err
	}
	file, err := ioutil.TempFile(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	if err == nil {
		err = file.Chmod(mode)
	}
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
