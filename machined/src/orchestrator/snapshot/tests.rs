//! Snapshots of a datastore in a folder of the test, the orchestrator played by it.

use super::*;
use crate::orchestrator::{payload::tests::payload, tests::FakeInit};
use keelson_api::init as proto;
use std::os::unix::fs::PermissionsExt as _;
use tempfile::TempDir;

/// A data directory and a home, and a payload that points there.
pub(in crate::orchestrator) struct Ground {
    pub dir: TempDir,
    pub payload: Payload,
}

impl Ground {
    pub(in crate::orchestrator) fn new(files: &[(&str, &str)]) -> Ground {
        let dir = tempfile::tempdir().unwrap();
        let mut payload = payload();
        payload.data_dir = dir.path().join("data");
        payload.config = dir.path().join("config.yaml");
        let ground = Ground { dir, payload };
        ground.write("token", "K10abc::server:secret");
        for (path, text) in files {
            ground.write(path, text);
        }
        ground
    }

    pub(in crate::orchestrator) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub(in crate::orchestrator) fn write(&self, path: &str, text: &str) {
        let path = self.payload.data_dir.join("server").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(in crate::orchestrator) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.payload.data_dir.join("server").join(path)).ok()
    }

    pub(in crate::orchestrator) fn snapshots(&self) -> Snapshots {
        Snapshots::at(&self.home())
    }
}

const SQLITE: [(&str, &str); 3] = [
    ("db/state.db", "rows"),
    ("db/state.db-wal", "newest rows"),
    ("db/other", "not its"),
];

#[test]
fn a_stopped_datastore_is_copied_with_its_log_and_the_token() {
    let ground = Ground::new(&SQLITE);
    let taken = ground
        .snapshots()
        .of_stopped(&ground.payload, "2.0.0+x/y")
        .unwrap();
    assert_eq!(
        (taken.form, taken.before.as_str()),
        (Form::Files, "2.0.0+x/y")
    );
    assert_eq!(
        (taken.orchestrator.as_str(), taken.version.as_str()),
        ("kubernetes-standin", "v1.20.2")
    );
    let name = taken
        .place
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    assert!(name.ends_with("-2.0.0-x-y"), "{name}");
    let read = |name: &str| fs::read_to_string(taken.place.join(name)).ok();
    assert_eq!(read("db/state.db").unwrap(), "rows");
    assert_eq!(read("db/state.db-wal").unwrap(), "newest rows");
    assert_eq!(read("db/other"), None);
    assert_eq!(read("token").unwrap(), "K10abc::server:secret");
    for (path, mode) in [
        ("token", 0o600),
        ("db/state.db", 0o600),
        ("", 0o700),
        ("db", 0o700),
    ] {
        let metadata = fs::metadata(taken.place.join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
    assert_eq!(ground.snapshots().find(&name), Some(taken));
}

#[test]
fn an_etcd_that_does_not_run_is_copied_whole() {
    let ground = Ground::new(&[
        ("db/etcd/member/snap/db", "b"),
        ("db/etcd/member/wal/0.wal", "w"),
    ]);
    assert_eq!(datastore(&ground.payload), Some(Datastore::Etcd));
    let taken = ground.snapshots().of_stopped(&ground.payload, "2").unwrap();
    let wal = fs::read_to_string(taken.place.join("db/etcd/member/wal/0.wal"));
    assert_eq!(wal.unwrap(), "w");
}

#[test]
fn the_newest_three_stay() {
    let ground = Ground::new(&SQLITE);
    let snapshots = ground.snapshots();
    // One that was not finished is no snapshot, and goes.
    fs::create_dir_all(ground.home().join("snapshots/1-broken")).unwrap();
    for version in ["1", "2", "3", "4"] {
        snapshots.of_stopped(&ground.payload, version).unwrap();
    }
    let mut left: Vec<_> = snapshots.list().into_iter().map(|it| it.before).collect();
    left.sort();
    assert_eq!(left, ["2", "3", "4"]);
    assert_eq!(
        fs::read_dir(ground.home().join("snapshots"))
            .unwrap()
            .count(),
        3
    );
}

#[test]
fn a_machine_without_a_datastore() {
    let ground = Ground::new(&[]);
    let outcome = ground.snapshots().of_stopped(&ground.payload, "2");
    assert!(matches!(outcome, Err(SnapshotError::None)), "{outcome:?}");
}

#[test]
fn too_little_room_is_told_with_figures() {
    let ground = Ground::new(&SQLITE);
    // A file of holes, larger than any volume.
    let huge = ground.payload.data_dir.join("server/db/state.db");
    fs::File::create(&huge).unwrap().set_len(1 << 43).unwrap();
    let error = ground
        .snapshots()
        .of_stopped(&ground.payload, "2")
        .unwrap_err();
    let SnapshotError::Space {
        needed_mib,
        free_mib,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(needed_mib, (1 << 23) + 64 + 1);
    let text = SnapshotError::Space {
        needed_mib,
        free_mib,
    }
    .to_string();
    assert!(
        text.contains(&format!("free {} MiB", needed_mib - free_mib)),
        "{text}"
    );
    assert!(!ground.home().exists());
}

/// Plays init for one run: what it was asked to start, after `work` was done for it.
async fn play(fake: &FakeInit, code: u32, work: impl FnOnce()) -> proto::Start {
    let request = fake.request().await.unwrap();
    let Some(proto::request::Body::Start(start)) = request.body else {
        panic!("something else is asked: {request:?}")
    };
    let started = proto::response::Body::Started(proto::Started { pid: 7 });
    work();
    fake.respond(request.id, Some(started)).await;
    let exited = proto::Exited {
        name: start.name.clone(),
        pid: 7,
        code: code.try_into().unwrap(),
        signal: 0,
    };
    fake.send(proto::message::Body::Exited(exited)).await;
    start
}

#[tokio::test]
async fn a_running_etcd_is_asked_for_one() {
    let ground = Ground::new(&[("db/etcd/member/snap/db", "b")]);
    let (fake, init) = FakeInit::new();
    let snapshots = ground.snapshots();
    let taking = snapshots.of_running(&init, &ground.payload, "2.0.0");
    let playing = play(&fake, 0, || {
        ground.write("db/snapshots/pre-2.0.0-node-1-17", "theirs");
        ground.write("db/snapshots/etcd-snapshot-node-1-18", "another");
    });
    let (taken, start) = tokio::join!(taking, playing);
    let taken = taken.unwrap();
    assert_eq!(start.name, "once-snapshot");
    assert_eq!(
        start.argv,
        [
            "/usr/lib/orchestrator/bin/kubernetes-standin",
            "etcd-snapshot",
            "save",
            "--name",
            "pre-2.0.0"
        ]
    );
    assert_eq!(taken.form, Form::Etcd);
    assert_eq!(
        fs::read_to_string(taken.place.join(ETCD_FILE)).unwrap(),
        "theirs"
    );
    assert!(taken.place.join("token").exists());
    assert_eq!(ground.read("db/snapshots/pre-2.0.0-node-1-17"), None);
}

#[tokio::test]
async fn the_orchestrators_config_says_where_it_writes() {
    let ground = Ground::new(&[("db/etcd/member/snap/db", "b")]);
    let elsewhere = ground.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let config = format!("cluster-init: true\netcd-snapshot-dir: {:?}\n", elsewhere);
    fs::write(&ground.payload.config, config).unwrap();
    let (fake, init) = FakeInit::new();
    let snapshots = ground.snapshots();
    let taking = snapshots.of_running(&init, &ground.payload, "2");
    let playing = play(&fake, 0, || {
        fs::write(elsewhere.join("pre-2-n-1.zip"), "z").unwrap()
    });
    let (taken, _) = tokio::join!(taking, playing);
    let file = taken.unwrap().etcd_file();
    assert_eq!(file.extension().unwrap(), "zip");
    assert_eq!(fs::read_to_string(file).unwrap(), "z");
}

#[tokio::test]
async fn a_failure_of_the_orchestrator_is_told() {
    let ground = Ground::new(&[("db/etcd/member/snap/db", "b")]);
    let (fake, init) = FakeInit::new();
    let snapshots = ground.snapshots();
    let taking = snapshots.of_running(&init, &ground.payload, "2");
    let (taken, _) = tokio::join!(taking, play(&fake, 1, || {}));
    assert!(taken.unwrap_err().to_string().contains("exit code 1"));

    let taking = snapshots.of_running(&init, &ground.payload, "2");
    let (taken, _) = tokio::join!(taking, play(&fake, 0, || {}));
    assert!(matches!(taken, Err(SnapshotError::Lost(_))));
    assert_eq!(snapshots.list(), []);
}
