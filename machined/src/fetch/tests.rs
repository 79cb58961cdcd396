//! Fetching from servers on loopback: whole, in pieces, through a proxy, and what goes wrong.

use super::*;
use crate::testca::Ca;
use keelson_config::Secret;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
};

/// A web server that breaks off after so many bytes of each answer; what it was asked for.
pub(crate) fn server(
    body: Vec<u8>,
    breaks_after: usize,
) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x.bundle", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let mut asked = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> = lines
                .map(|line| line.unwrap())
                .take_while(|line| !line.is_empty())
                .collect();
            let range = head.iter().find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("range: bytes=")
                    .map(str::to_owned)
            });
            asked.push(range.clone().unwrap_or_default());
            let from: usize = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
            let status = if from == 0 {
                "200 OK"
            } else {
                "206 Partial Content"
            };
            let (all, end) = (body.len(), (from + breaks_after).min(body.len()));
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{}/{all}\r\n\r\n",
                all - from,
                all - 1
            )
            .unwrap();
            stream.write_all(&body[from..end]).unwrap();
            if end == all {
                break;
            }
        }
        asked
    });
    (url, served)
}

fn fetch(url: String) -> anyhow::Result<Vec<u8>> {
    fetch_by(url, &Egress::default())
}

fn fetch_by(url: String, egress: &Egress) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Download::begin("bundle", url, egress)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_gone_on_with() {
    let body: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let (url, served) = server(body.clone(), 60_000);
    let fetched = tokio::task::spawn_blocking(|| fetch(url)).await.unwrap();
    assert!(fetched.unwrap() == body, "it is not what was sent");
    assert_eq!(served.join().unwrap(), ["", "60000-"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_than_the_web_is_fetched_from() {
    for url in ["file:///etc/passwd", "ftp://x/y", "/etc/passwd", ""] {
        let url = url.to_owned();
        let fetched = tokio::task::spawn_blocking(|| fetch(url)).await.unwrap();
        assert!(fetched.is_err());
    }
}

/// A proxy that takes one connection through to where it is told; what it was asked.
fn connect_proxy(to: String) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let proxied = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let lines = BufReader::new(client.try_clone().unwrap()).lines();
        let head: Vec<String> = lines
            .map(|line| line.unwrap())
            .take_while(|line| !line.is_empty())
            .collect();
        let mut server = std::net::TcpStream::connect(to).unwrap();
        write!(client, "HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let upwards = thread::spawn(move || {
            let copied = io::copy(&mut up, &mut down);
            // The one that speaks last ends the other.
            drop(down.shutdown(std::net::Shutdown::Write));
            copied
        });
        // A client that does not trust the server breaks off.
        drop(io::copy(&mut server, &mut client));
        drop(client.shutdown(std::net::Shutdown::Both));
        drop(upwards.join().unwrap());
        head
    });
    (at.to_string(), proxied)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_gone_through_with_its_password() {
    let body = b"a bundle".to_vec();
    let (url, served) = server(body.clone(), 100);
    let to = url.strip_prefix("http://").unwrap().split('/').next();
    let (at, proxied) = connect_proxy(to.unwrap().to_owned());
    let egress = Egress {
        http_proxy: Some(Secret::new(format!("http://me:s3cret@{at}"))),
        ..Egress::default()
    };
    // A name that nobody but the proxy could know.
    let url = "http://mirror.invalid/x.bundle".to_owned();
    let fetched = tokio::task::spawn_blocking(move || fetch_by(url, &egress)).await;
    assert_eq!(fetched.unwrap().unwrap(), body);
    served.join().unwrap();
    let head = proxied.join().unwrap().join("\n").to_lowercase();
    assert!(head.starts_with("connect mirror.invalid:80"), "{head}");
    assert!(
        head.contains("proxy-authorization: basic bwu6cznjcmv0"),
        "{head}"
    );
}

/// A web server with a certificate for `mirror.invalid`; its address, and its CA. It
/// answers one call, and lets callers go who do not trust it.
fn https_server(body: &'static [u8], calls: usize) -> (String, String) {
    let ca = Ca::new();
    let config = ca.server(&["mirror.invalid"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().take(calls) {
            let tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, stream.unwrap());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => break,
                }
            }
            if head.ends_with(b"\r\n\r\n") {
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"
                )
                .unwrap();
                stream.write_all(body).unwrap();
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
        }
    });
    (at, ca.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_of_the_configs_is_trusted_through_the_proxy() {
    let (to, ca) = https_server(b"a bundle", 2);
    let fetch = async |trusted_cas: Vec<String>| {
        let (at, _) = connect_proxy(to.clone());
        let egress = Egress {
            https_proxy: Some(Secret::new(format!("http://{at}"))),
            trusted_cas,
            ..Egress::default()
        };
        let url = "https://mirror.invalid/x.bundle".to_owned();
        let fetched = tokio::task::spawn_blocking(move || fetch_by(url, &egress)).await;
        fetched.unwrap()
    };
    let error = fetch(Vec::new()).await.unwrap_err();
    assert!(format!("{error:#}").contains("certificate"), "{error:#}");
    assert_eq!(fetch(vec![ca]).await.unwrap(), b"a bundle");
}

#[test]
fn what_needs_no_proxy() {
    let no = ["example.com", ".internal", "10.0.0.0/8", "192.0.2.1"].map(str::to_owned);
    for (host, direct) in [
        ("example.com", true),
        ("a.example.com", true),
        ("Example.com", true),
        ("notexample.com", false),
        ("x.internal", true),
        ("internal", true),
        ("10.2.3.4", true),
        ("11.2.3.4", false),
        ("192.0.2.1", true),
        ("localhost", true),
        ("127.1.2.3", true),
        ("[::1]", true),
        ("[fd00::1]", false),
    ] {
        assert_eq!(is_direct(host, &no), direct, "{host}");
    }
}
