//! When a machine answers for the first time, seen from outside.
//!
//! ```text
//! kernel's first line ── a port that nobody serves refuses ── the service answers
//!                        (the network is up; every 100 ms)    (one attempt at a time, every 50 ms)
//! ```
//!
//! The service itself is asked only once the network is up: QEMU repeats for a
//! minute what it could not deliver, and the machine would have to serve a crowd
//! of callers that went long ago, just when it is measured.

use super::guest;
use anyhow::{Context, Result, anyhow, bail, ensure};
use keelson_api::v1::{VersionRequest, machine_service_client::MachineServiceClient};
use keelson_tests::{BOOT, Console, Identity, Vm, connect};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use std::{
    fs,
    future::Future,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    task::JoinSet,
    time::{sleep as sleep_for, sleep_until, timeout},
};

/// The first thing that the kernel itself writes, while it still is an EFI
/// program. Its own first message ("Linux version") is only in its log: the
/// console of both machines shows warnings and worse.
const FIRST_LINE: &str = "EFI stub: Loaded initrd";

/// How many of proc(5)'s clock ticks make a second: USER_HZ, on every architecture of ours.
const TICKS: f64 = 100.0;

/// Between two looks at whether the network is up.
const LOOK: Duration = Duration::from_millis(100);
/// How long one look is waited for. Many are open at once; each costs the machine one packet.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Between a refused attempt and the next.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// From the kernel's first line to the first answer.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    /// On the wall's clock.
    pub(super) seconds: f64,
    /// Of the host's processors, by QEMU: what else the host does hardly touches it.
    pub(super) processor_seconds: f64,
}

/// Waits for the kernel's first line and then asks until somebody answers.
pub(super) fn first<F>(vm: &Vm, attempt: impl Fn() -> F) -> Result<Answer>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let console = vm.console();
    let begun = first_line(console)?;
    let before = processor(vm)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answered = runtime
        .block_on(async {
            let deadline = begun + BOOT;
            network(vm.address(guest::CLOSED), deadline).await?;
            ask(deadline, attempt).await
        })
        .with_context(|| format!("the console's end:\n{}", console.end()))?;
    Ok(Answer {
        seconds: (answered - begun).as_secs_f64(),
        processor_seconds: processor(vm)? - before,
    })
}

/// Seconds of the host's processors that QEMU has used.
fn processor(vm: &Vm) -> Result<f64> {
    let path = format!("/proc/{}/stat", vm.pid());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    ticks(&text)
        .map(|ticks| ticks as f64 / TICKS)
        .with_context(|| format!("{path} is not as proc(5) says"))
}

/// Fields 14 and 15 of proc(5)'s stat, utime and stime; the second, the name, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace().skip(14 - 3);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Waits for the kernel's first line; looks at the console a hundred times a second.
fn first_line(console: &Console) -> Result<Instant> {
    let deadline = Instant::now() + BOOT;
    while console.find_after(0, FIRST_LINE).is_none() {
        ensure!(
            Instant::now() < deadline,
            "the kernel has not started; the console's end:\n{}",
            console.end()
        );
        sleep(Duration::from_millis(10));
    }
    Ok(Instant::now())
}

/// Waits until the machine refuses a connection: then it has a network.
async fn network(closed: SocketAddr, deadline: Instant) -> Result<()> {
    let mut looks = JoinSet::new();
    let mut next = Instant::now();
    while Instant::now() < deadline {
        tokio::select! {
            Some(ended) = looks.join_next() => match ended? {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            },
            () = sleep_until(next.into()) => {
                looks.spawn(timeout(LOOK_LIMIT, refused(closed)));
                next = Instant::now() + LOOK;
            }
        }
    }
    bail!("the machine has no network")
}

/// Succeeds when the connection has ended: QEMU takes it at once, and drops it
/// when the machine refuses.
async fn refused(closed: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(closed).await?;
    match stream.read(&mut [0]).await {
        Ok(0) | Err(_) => Ok(()),
        Ok(_) => bail!("somebody serves a port that is to be closed"),
    }
}

/// Makes one attempt after the other until one is answered.
async fn ask<F>(deadline: Instant, attempt: impl Fn() -> F) -> Result<Instant>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    loop {
        let error = match timeout(ATTEMPT, attempt()).await {
            Ok(Ok(())) => return Ok(Instant::now()),
            Ok(Err(error)) => error,
            Err(_) => anyhow!("no answer within {} s", ATTEMPT.as_secs()),
        };
        if Instant::now() > deadline {
            return Err(error.context("nobody has answered"));
        }
        sleep_for(PAUSE).await;
    }
}

/// Succeeds when an SSH server has said who it is.
pub(super) async fn ssh_banner(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let mut banner = [0; 4];
    stream.read_exact(&mut banner).await?;
    ensure!(&banner == b"SSH-", "this is no SSH server");
    Ok(())
}

/// Succeeds when the node has said which version it runs.
pub(super) async fn version(address: SocketAddr, identity: Identity) -> Result<()> {
    let channel = connect(address, Some(identity)).await?;
    MachineServiceClient::new(channel)
        .version(VersionRequest {})
        .await?;
    Ok(())
}

/// A client's certificate and key, PEM.
#[derive(Clone)]
pub(super) struct Client {
    chain: Vec<CertificateDer<'static>>,
    key: std::sync::Arc<PrivateKeyDer<'static>>,
}

impl Client {
    /// Reads both.
    pub(super) fn parse(cert: &str, key: &str) -> Result<Client> {
        use rustls_pki_types::pem::PemObject as _;
        Ok(Client {
            chain: CertificateDer::pem_slice_iter(cert.as_bytes())
                .collect::<Result<_, _>>()
                .context("in the client's certificate")?,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes())
                .context("in the client's key")?
                .into(),
        })
    }

    /// As a call takes it.
    pub(super) fn identity(&self) -> Identity {
        Identity {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        net::TcpListener,
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn who_is_refused_tries_again_until_the_deadline() {
        let count = AtomicU32::new(0);
        let error = block_on(ask(Instant::now() + 4 * PAUSE, || {
            count.fetch_add(1, Ordering::Relaxed);
            async { bail!("refused") }
        }))
        .unwrap_err();
        assert!(format!("{error:#}").contains("refused"), "{error:#}");
        assert!(count.load(Ordering::Relaxed) >= 3);
    }

    #[test]
    fn the_network_is_up_when_a_connection_is_dropped() {
        // Two connections are left hanging, as QEMU does; the third is dropped.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let begun = Instant::now();
        let server = thread::spawn(move || {
            let _held = [listener.accept().unwrap(), listener.accept().unwrap()];
            drop(listener.accept().unwrap());
            thread::sleep(LOOK);
        });
        block_on(network(address, begun + LOOK_LIMIT)).unwrap();
        assert!(begun.elapsed() >= 2 * LOOK);
        server.join().unwrap();
    }

    #[test]
    fn without_a_network_the_deadline_ends_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(block_on(network(address, Instant::now() + 3 * LOOK)).is_err());
    }

    #[test]
    fn the_processors_time_is_found_behind_any_name() {
        let stat = "77 (a) b) S 1 77 77 0 -1 4194304 5 6 7 8 250 50 1 2 20 0 3 0 9";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("77 (a) S 1"), None);
    }

    #[test]
    fn only_an_ssh_server_is_one() {
        for (greeting, good) in [("SSH-2.0-x\r\n", true), ("HTTP/1.1 200", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(greeting.as_bytes()).unwrap();
            });
            assert_eq!(block_on(ssh_banner(address)).is_ok(), good, "{greeting}");
            server.join().unwrap();
        }
    }
}
