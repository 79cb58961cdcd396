//! When a machine answers for the first time, seen from outside: the moment of
//! the kernel's first line, then attempt after attempt until one is answered.

use anyhow::{Context, Result, bail, ensure};
use keelson_api::v1::{VersionRequest, machine_service_client::MachineServiceClient};
use keelson_tests::{BOOT, Console, Identity, connect};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::{
    future::Future,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    task::JoinSet,
    time::{sleep_until, timeout},
};

/// The first thing that the kernel itself writes, while it still is an EFI
/// program. Its own first message ("Linux version") is only in its log: the
/// console of both machines shows warnings and worse.
const FIRST_LINE: &str = "EFI stub: Loaded initrd";

/// Between two attempts that hang: nothing is there yet to refuse them.
const PATIENCE: Duration = Duration::from_millis(250);
/// After an attempt that was refused: the network is up, the service is not.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one attempt may take. With PATIENCE, no more than eight are ever
/// open: sshd begins to drop connections at ten.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Seconds from the kernel's first line to the first answer.
pub(super) fn seconds<F>(console: &Console, attempt: impl Fn() -> F) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begun = first_line(console)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answered = runtime
        .block_on(first(begun + BOOT, attempt))
        .with_context(|| format!("the console's end:\n{}", console.tail(25)))?;
    Ok((answered - begun).as_secs_f64())
}

/// Waits for the kernel's first line; looks at the console a hundred times a second.
fn first_line(console: &Console) -> Result<Instant> {
    let deadline = Instant::now() + BOOT;
    while console.find_after(0, FIRST_LINE).is_none() {
        ensure!(
            Instant::now() < deadline,
            "the kernel has not started; the console's end:\n{}",
            console.tail(25)
        );
        sleep(Duration::from_millis(10));
    }
    Ok(Instant::now())
}

/// Begins one attempt after the other until one is answered.
async fn first<F>(deadline: Instant, attempt: impl Fn() -> F) -> Result<Instant>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut attempts = JoinSet::new();
    let mut next = Instant::now();
    let mut last = None;
    while Instant::now() < deadline {
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended? {
                Ok(Ok(())) => return Ok(Instant::now()),
                Ok(Err(error)) => {
                    next = next.min(Instant::now() + PAUSE);
                    last = Some(error);
                }
                Err(_) => {}
            },
            () = sleep_until(next.into()) => {
                attempts.spawn(timeout(ATTEMPT, attempt()));
                next = Instant::now() + PATIENCE;
            }
        }
    }
    match last {
        Some(error) => Err(error.context("nobody has answered")),
        None => bail!("nobody has answered"),
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
    fn an_attempt_that_hangs_does_not_hold_up_the_next() {
        let count = std::sync::Arc::new(AtomicU32::new(0));
        let begun = Instant::now();
        let answered = block_on(first(begun + ATTEMPT, || {
            let nth = count.fetch_add(1, Ordering::Relaxed);
            async move {
                if nth == 0 {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }));
        assert!(answered.unwrap() - begun < ATTEMPT);
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn who_is_refused_tries_again_until_the_deadline() {
        let count = AtomicU32::new(0);
        let error = block_on(first(Instant::now() + 4 * PAUSE, || {
            count.fetch_add(1, Ordering::Relaxed);
            async { bail!("refused") }
        }))
        .unwrap_err();
        assert!(format!("{error:#}").contains("refused"), "{error:#}");
        assert!(count.load(Ordering::Relaxed) >= 3);
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
