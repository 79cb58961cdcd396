package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/ioutil"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/etcdserver"
	"go.etcd.io/etcd/etcdserver/api/membership"
	"go.etcd.io/etcd/etcdserver/api/snap"
	"go.etcd.io/etcd/etcdserver/api/v2store"
	"go.etcd.io/etcd/etcdserver/etcdserverpb"
	"go.etcd.io/etcd/lease"
	"go.etcd.io/etcd/mvcc"
	"go.etcd.io/etcd/mvcc/backend"
	"go.etcd.io/etcd/pkg/traceutil"
	"go.etcd.io/etcd/pkg/types"
	"go.etcd.io/etcd/raft/raftpb"
	"go.etcd.io/etcd/wal"
	"go.etcd.io/etcd/wal/walpb"
	"go.uber.org/zap"
)

// resetFlag says that a snapshot was restored and no server was started since.
func resetFlag(config *Config) string {
	return filepath.Join(config.DataDir, "server/db/reset-flag")
}

// restoreArgs reads `--cluster-reset --cluster-reset-restore-path=FILE`; ok is
// false for any other arguments.
func restoreArgs(args []string) (path string, ok bool) {
	const flag = "--cluster-reset-restore-path"
	reset := false
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--cluster-reset":
			reset = true
		case strings.HasPrefix(args[i], flag+"="):
			path = strings.TrimPrefix(args[i], flag+"=")
		case args[i] == flag && i+1 < len(args):
			i++
			path = args[i]
		default:
			return "", false
		}
	}
	return path, reset && path != ""
}

// restore puts a snapshot in the place of the datastore and ends; what was
// there before is kept beside it.
func restore(config *Config, path string) error {
	if _, err := os.Stat(resetFlag(config)); err == nil {
		return fmt.Errorf("a snapshot was restored already: start the server, or remove %s", resetFlag(config))
	}
	dir := filepath.Join(config.DataDir, "server/db/etcd")
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := restoreInto(fresh, path); err != nil {
		return fmt.Errorf("restore %s: %v", path, err)
	}
	old := fmt.Sprintf("%s-old-%d", dir, time.Now().Unix())
	if err := os.Rename(dir, old); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return err
	}
	if err := writeFile(resetFlag(config), nil, 0600); err != nil {
		return err
	}
	logf("restored %s; start the server without --cluster-reset now", path)
	return nil
}

// restoreInto makes the data directory of a new cluster of one member with the
// keys of the snapshot, as `etcdctl snapshot restore` does.
func restoreInto(dir, path string) error {
	snapDir, walDir := filepath.Join(dir, "member/snap"), filepath.Join(dir, "member/wal")
	if err := os.MkdirAll(snapDir, 0700); err != nil {
		return err
	}
	database := filepath.Join(snapDir, "db")
	if err := copyChecked(path, database); err != nil {
		return err
	}
	urls, err := types.NewURLsMap("default=https://127.0.0.1:2380")
	if err != nil {
		return err
	}
	cluster, err := membership.NewClusterFromURLsMap(zap.NewNop(), "etcd-cluster", urls)
	if err != nil {
		return err
	}
	member := cluster.MemberByName("default")

	// The database forgets its members, and how far another log had got.
	commit := consistentIndex(1)
	store := backend.NewDefaultBackend(database)
	lessor := lease.NewLessor(zap.NewNop(), store, lease.LessorConfig{MinLeaseTTL: math.MaxInt64})
	keys := mvcc.NewStore(zap.NewNop(), store, lessor, &commit, mvcc.StoreConfig{CompactionBatchLimit: math.MaxInt32})
	txn := keys.Write(traceutil.TODO())
	batch := store.BatchTx()
	for _, bucket := range []string{"members", "members_removed"} {
		var names [][]byte
		if err := batch.UnsafeForEach([]byte(bucket), func(name, _ []byte) error {
			names = append(names, append([]byte{}, name...))
			return nil
		}); err != nil {
			return err
		}
		for _, name := range names {
			batch.UnsafeDelete([]byte(bucket), name)
		}
	}
	// Nothing but the end of a transaction writes the index out.
	txn.End()
	keys.Commit()
	if err := keys.Close(); err != nil {
		return err
	}
	if err := store.Close(); err != nil {
		return err
	}

	// The log begins with the one member.
	members := v2store.New(etcdserver.StoreClusterPrefix, etcdserver.StoreKeysPrefix)
	cluster.SetStore(members)
	cluster.AddMember(member)
	metadata, err := (&etcdserverpb.Metadata{NodeID: uint64(member.ID), ClusterID: uint64(cluster.ID())}).Marshal()
	if err != nil {
		return err
	}
	log, err := wal.Create(zap.NewNop(), walDir, metadata)
	if err != nil {
		return err
	}
	defer log.Close()
	context, err := json.Marshal(member)
	if err != nil {
		return err
	}
	change, err := (&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: uint64(member.ID), Context: context}).Marshal()
	if err != nil {
		return err
	}
	entries := []raftpb.Entry{{Type: raftpb.EntryConfChange, Term: 1, Index: 1, Data: change}}
	if err := log.Save(raftpb.HardState{Term: 1, Vote: uint64(member.ID), Commit: 1}, entries); err != nil {
		return err
	}
	data, err := members.Save()
	if err != nil {
		return err
	}
	if err := snap.New(zap.NewNop(), snapDir).SaveSnap(raftpb.Snapshot{
		Data: data,
		Metadata: raftpb.SnapshotMetadata{
			Index: 1, Term: 1,
			ConfState: raftpb.ConfState{Voters: []uint64{uint64(member.ID)}},
		},
	}); err != nil {
		return err
	}
	return log.SaveSnapshot(walpb.Snapshot{Index: 1, Term: 1})
}

// copyChecked copies a snapshot without the SHA-256 at its end, which it must fit.
func copyChecked(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	size, err := source.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size%512 != sha256.Size {
		return fmt.Errorf("it is not complete: %d bytes", size)
	}
	if _, err := source.Seek(0, io.SeekStart); err != nil {
		return err
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0600)
	if err != nil {
		return err
	}
	defer target.Close()
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(target, hash), source, size-sha256.Size); err != nil {
		return err
	}
	want, err := ioutil.ReadAll(source)
	if err != nil {
		return err
	}
	if !bytes.Equal(hash.Sum(nil), want) {
		return fmt.Errorf("it is damaged: its SHA-256 is another")
	}
	return target.Sync()
}

// consistentIndex is how far the log has got that a database belongs to.
type consistentIndex uint64

func (i *consistentIndex) ConsistentIndex() uint64 { return uint64(*i) }
