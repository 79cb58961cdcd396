//! The whole of it over the loopback: files in, lines out.

use super::*;
use keelson_config::{Forward as Wanted, LogProtocol};
use serde_json::Value;
use std::{fs, io::Write as _};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::{TcpListener, TcpStream},
};

struct Node {
    dir: tempfile::TempDir,
    forward: Forward,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("k3s.log");
        fs::write(&log, "").unwrap();
        let logs = vec![("k3s".to_owned(), log)];
        let mut forward = Forward::new(logs, &dir.path().join("positions"));
        forward.pauses = Pauses {
            first: Duration::from_millis(10),
            most: Duration::from_millis(50),
        };
        Node { dir, forward }
    }

    fn follow(&mut self, servers: &[(u16, &str)]) {
        self.forward.follow(&config(servers));
    }

    fn write(&self, text: &str) {
        let path = self.dir.path().join("k3s.log");
        let mut file = fs::File::options().append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Writes again and again until such a line has come, with the cluster: when the log is
    /// opened, nobody says.
    async fn until(&self, from: &mut Lines<BufReader<TcpStream>>, text: &str) -> Value {
        loop {
            self.write(&format!("{text}\n"));
            let next = tokio::time::timeout(Duration::from_millis(100), from.next_line());
            if let Ok(line) = next.await {
                let line: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
                if line["message"] == text {
                    return line;
                }
            }
        }
    }
}

fn config(servers: &[(u16, &str)]) -> Machine {
    let mut machine = Machine::maintenance();
    machine.forward = servers
        .iter()
        .map(|(port, cluster)| Wanted {
            to: server(*port),
            fields: [("cluster".to_owned(), (*cluster).to_owned())].into(),
        })
        .collect();
    machine
}

#[test]
fn what_a_config_would_change() {
    let steps = |have: &[(u16, &str)], want: &[(u16, &str)]| {
        let steps = plan(&config(have), &config(want)).into_iter();
        steps.map(|step| step.step).collect::<Vec<_>>()
    };
    assert_eq!(steps(&[(1, "a")], &[(1, "a")]), [""; 0]);
    assert_eq!(
        steps(&[(1, "a"), (2, "a")], &[(2, "b"), (3, "a")]),
        [
            "send other fields with the logs to tcp://127.0.0.1:2",
            "send the logs to tcp://127.0.0.1:3",
            "send no more logs to tcp://127.0.0.1:1",
        ]
    );
}

fn server(port: u16) -> LogServer {
    LogServer {
        protocol: LogProtocol::Tcp,
        host: "127.0.0.1".to_owned(),
        port,
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn accept(listener: &TcpListener) -> Lines<BufReader<TcpStream>> {
    let (stream, _) = listener.accept().await.unwrap();
    BufReader::new(stream).lines()
}

#[tokio::test]
async fn a_config_is_followed_and_who_stays_keeps_the_connection() {
    let (one, two) = (listen().await, listen().await);
    let mut machine = Node::new();
    machine.follow(&[(one.1, "a")]);
    let mut first = accept(&one.0).await;
    let line = machine.until(&mut first, "one").await;
    assert_eq!(
        (&line["source"], &line["cluster"]),
        (&"k3s".into(), &"a".into())
    );

    // Other fields, and a second server: on the same connection.
    machine.follow(&[(one.1, "b"), (two.1, "c")]);
    let mut second = accept(&two.0).await;
    assert_eq!(machine.until(&mut second, "two").await["cluster"], "c");
    assert_eq!(machine.until(&mut first, "three").await["cluster"], "b");
    assert_eq!(machine.forward.resources().len(), 2);

    // The first is not wanted any more: its connection ends.
    machine.follow(&[(two.1, "c")]);
    while first.next_line().await.unwrap().is_some() {}
    machine.until(&mut second, "four").await;
    let names: Vec<_> = machine.forward.resources();
    assert_eq!(names[0].name, format!("tcp://127.0.0.1:{}", two.1));

    // Nobody is wanted: nothing is read any more.
    machine.follow(&[]);
    while second.next_line().await.unwrap().is_some() {}
    assert!(machine.forward.sources.is_empty() && machine.forward.resources().is_empty());
}

#[tokio::test]
async fn a_server_that_is_gone_holds_up_no_other() {
    let (gone, port) = listen().await;
    drop(gone);
    let alive = listen().await;
    let mut machine = Node::new();
    machine.follow(&[(port, "a"), (alive.1, "b")]);
    let mut lines = accept(&alive.0).await;
    machine.until(&mut lines, "one").await;
    let many: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
    machine.write(&many);
    let mut numbers = Vec::new();
    while numbers.len() < 10_000 {
        let line: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        assert!(line["dropped"].is_null(), "{line}");
        if let Some(number) = line["message"].as_str().unwrap().strip_prefix("line ") {
            numbers.push(number.parse::<u32>().unwrap());
        }
    }
    assert!(numbers.is_sorted());
    let resources = machine.forward.resources();
    let of = |port: u16| {
        resources
            .iter()
            .find(|it| it.name.ends_with(&format!(":{port}")))
            .unwrap()
    };
    assert_eq!(of(alive.1).spec["dropped"], 0);
    assert_eq!(of(alive.1).spec["state"], "connected");
    assert!(of(port).spec["dropped"].as_u64() > Some(0));
    assert_eq!(of(port).spec["sent"], 0);
}
