//! A snapshot put back, also after an interruption.

use super::*;
use crate::orchestrator::{snapshot::tests::Ground, tests::FakeInit};
use keelson_api::init as proto;

fn no_init() -> Init {
    Init::new(None).unwrap()
}

#[tokio::test]
async fn sqlite_goes_back_and_what_was_there_goes_aside() {
    let ground = Ground::new(&[("db/state.db", "old"), ("db/state.db-wal", "old log")]);
    let home = ground.home();
    let snapshot = ground.snapshots().of_stopped(&ground.payload, "2").unwrap();
    ground.write("db/state.db", "new");
    ground.write("db/state.db-wal", "new log");
    ground.write("db/state.db-shm", "new index");
    request_at(&home, &snapshot).unwrap();

    let done = fulfil_at(&home, &no_init(), &ground.payload).await.unwrap();
    assert_eq!(done.as_ref(), Some(&snapshot));
    assert_eq!(ground.read("db/state.db").unwrap(), "old");
    assert_eq!(ground.read("db/state.db-wal").unwrap(), "old log");
    assert_eq!(ground.read("db/state.db-shm"), None);
    let aside = format!(
        "db/before-{}",
        snapshot.place.file_name().unwrap().display()
    );
    assert_eq!(ground.read(&format!("{aside}/state.db")).unwrap(), "new");
    // Once is enough.
    let again = fulfil_at(&home, &no_init(), &ground.payload).await.unwrap();
    assert_eq!(again, None);
}

#[tokio::test]
async fn an_interruption_at_any_step_comes_to_the_same() {
    // How far the first try got: which of the new files were aside, which of the old in place.
    for (aside, placed) in [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)] {
        let ground = Ground::new(&[("db/state.db", "old"), ("db/state.db-wal", "old log")]);
        let home = ground.home();
        let snapshot = ground.snapshots().of_stopped(&ground.payload, "2").unwrap();
        request_at(&home, &snapshot).unwrap();
        let name = snapshot.place.file_name().unwrap().display().to_string();
        ground.write("db/restore.new/state.db", "ol");
        let files = ["state.db", "state.db-wal"];
        for (index, file) in files.into_iter().enumerate() {
            ground.write(&format!("db/{file}"), "new");
            if index < aside {
                let db = ground.payload.data_dir.join("server/db");
                fs::create_dir_all(db.join(format!("before-{name}"))).unwrap();
                let kept = db.join(format!("before-{name}/{file}"));
                fs::rename(db.join(file), kept).unwrap();
            }
            if index < placed {
                ground.write(&format!("db/{file}"), "half");
            }
        }
        fulfil_at(&home, &no_init(), &ground.payload).await.unwrap();
        assert_eq!(
            ground.read("db/state.db").unwrap(),
            "old",
            "{aside} {placed}"
        );
        assert_eq!(ground.read("db/state.db-wal").unwrap(), "old log");
        for file in files {
            let kept = ground.read(&format!("db/before-{name}/{file}"));
            assert_eq!(kept.unwrap(), "new", "{aside} {placed}");
        }
        assert_eq!(ground.read("db/restore.new/state.db"), None);
    }
}

#[tokio::test]
async fn an_etcd_is_put_back_by_the_orchestrator_itself() {
    let ground = Ground::new(&[("db/etcd/member/snap/db", "b"), ("db/reset-flag", "")]);
    let home = ground.home();
    // As of_running leaves it.
    let snapshot = ground.snapshots().of_stopped(&ground.payload, "2").unwrap();
    let manifest = snapshot.place.join("snapshot.json");
    let text = fs::read_to_string(&manifest)
        .unwrap()
        .replace("\"files\"", "\"etcd\"");
    fs::write(&manifest, text).unwrap();
    request_at(&home, &snapshot).unwrap();

    for (code, fulfilled) in [(1, false), (0, true)] {
        let (fake, init) = FakeInit::new();
        let playing = async {
            let request = fake.request().await.unwrap();
            let Some(proto::request::Body::Start(start)) = request.body else {
                panic!("something else is asked")
            };
            let started = proto::response::Body::Started(proto::Started { pid: 7 });
            fake.respond(request.id, Some(started)).await;
            let exited = proto::Exited {
                name: start.name.clone(),
                pid: 7,
                code,
                signal: 0,
            };
            fake.send(proto::message::Body::Exited(exited)).await;
            start
        };
        let (outcome, start) = tokio::join!(fulfil_at(&home, &init, &ground.payload), playing);
        let path = format!(
            "--cluster-reset-restore-path={}/etcd-snapshot",
            snapshot.place.display()
        );
        assert_eq!(start.argv[1..], ["server", "--cluster-reset", &path]);
        assert_eq!(outcome.is_ok(), fulfilled);
        // As long as it did not work the wish stays, and with it the orchestrator away.
        assert_eq!(home.join(WISH).exists(), !fulfilled);
        assert_eq!(ground.read("db/reset-flag"), None);
    }
}

#[tokio::test]
async fn what_cannot_be_put_back_is_told_and_the_wish_stays() {
    let ground = Ground::new(&[("db/state.db", "old")]);
    let home = ground.home();
    let snapshot = ground.snapshots().of_stopped(&ground.payload, "2").unwrap();
    request_at(&home, &snapshot).unwrap();
    let mut other = ground.payload.clone();
    other.name = "k3s".into();
    let error = fulfil_at(&home, &no_init(), &other).await.unwrap_err();
    assert!(matches!(error, RestoreError::Other(..)), "{error}");
    fs::remove_dir_all(&snapshot.place).unwrap();
    let error = fulfil_at(&home, &no_init(), &ground.payload)
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::Missing(_)), "{error}");
    fs::write(home.join(WISH), "{").unwrap();
    let error = fulfil_at(&home, &no_init(), &ground.payload)
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::Wish { .. }), "{error}");
    assert!(home.join(WISH).exists());
    withdraw_at(&home).unwrap();
    withdraw_at(&home).unwrap();
    assert_eq!(
        fulfil_at(&home, &no_init(), &ground.payload).await.unwrap(),
        None
    );
}
