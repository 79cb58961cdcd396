//! The keys and peers of WireGuard links: read from the kernel, compared with what the
//! config wants, changed where they differ. What a change is, is decided here, without a
//! socket; the bytes are in [`message`], the way to the kernel in [`genetlink`].
//!
//! The kernel follows a peer that moves (wg(8), "roaming"), so that its endpoint is not
//! always the config's. It is set again when the config says another, and when the peer has
//! not been heard for so long that its session is over.

mod genetlink;
mod message;

use anyhow::Context as _;
use genetlink::Family;
use keelson_config::{Cidr, Peer, PublicKey, SecretKey, Wireguard};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

/// REJECT_AFTER_TIME of the protocol: no session is older (WireGuard: Next Generation Kernel
/// Network Tunnel, section 6.1).
const SESSION_SECONDS: u64 = 180;

/// A link as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    /// When it was looked at, in seconds since 1970.
    pub now: u64,
    /// Its key.
    pub private_key: Option<SecretKey>,
    /// What its peers know it by.
    pub public_key: Option<PublicKey>,
    /// Its UDP port; 0 is none yet.
    pub listen_port: u16,
    /// The mark of what it sends.
    pub fw_mark: u32,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, Seen>,
}

/// A peer as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What both ends know besides.
    pub preshared_key: Option<SecretKey>,
    /// Where it is now.
    pub endpoint: Option<SocketAddr>,
    /// Where machined said last that it is.
    pub told: Option<SocketAddr>,
    /// The networks behind it.
    pub allowed_ips: BTreeSet<Cidr>,
    /// How often it hears something anyway, in seconds.
    pub persistent_keepalive: u16,
    /// When the last session began, in seconds since 1970.
    pub last_handshake: Option<u64>,
}

/// What is to be changed of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    private_key: Option<SecretKey>,
    listen_port: Option<u16>,
    fw_mark: Option<u32>,
    peers: Vec<PeerChange>,
}

/// What is to be changed of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PeerChange {
    key: PublicKey,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Remove,
    Set {
        /// It is not there yet.
        new: bool,
        /// `Some(None)` takes it away.
        preshared_key: Option<Option<SecretKey>>,
        endpoint: Option<SocketAddr>,
        /// All of them.
        allowed_ips: Option<BTreeSet<Cidr>>,
        persistent_keepalive: Option<u16>,
    },
}

impl Device {
    /// What is missing; `None` where nothing is.
    pub(crate) fn lacks(&self, want: &Wireguard) -> Option<Change> {
        // The kernel keeps it in the form that is reckoned with.
        let key = want.private_key.clamped();
        let mut change = Change {
            private_key: (self.private_key.as_ref() != Some(&key)).then_some(key),
            listen_port: want.listen_port.filter(|port| *port != self.listen_port),
            fw_mark: (self.fw_mark != want.fw_mark).then_some(want.fw_mark),
            peers: Vec::new(),
        };
        for key in self.peers.keys() {
            if !want.peers.iter().any(|peer| peer.public_key == *key) {
                let (key, what) = (*key, What::Remove);
                change.peers.push(PeerChange { key, what });
            }
        }
        for peer in want.peers.iter().filter(|peer| !self.is_itself(peer)) {
            let key = peer.public_key;
            let what = match self.peers.get(&key) {
                Some(seen) => seen.lacks(peer, self.now),
                None => Seen::default()
                    .lacks(peer, self.now)
                    .or(Some(What::nothing())),
            };
            if let Some(mut what) = what {
                if let What::Set { new, .. } = &mut what {
                    *new = !self.peers.contains_key(&key);
                }
                change.peers.push(PeerChange { key, what });
            }
        }
        (change != Change::default()).then_some(change)
    }

    /// Whether a peer has the link's own key, which the kernel takes for no peer.
    pub(crate) fn is_itself(&self, peer: &Peer) -> bool {
        self.public_key == Some(peer.public_key)
    }
}

impl Seen {
    fn lacks(&self, want: &Peer, now: u64) -> Option<What> {
        let allowed: BTreeSet<Cidr> = want.allowed_ips.iter().copied().collect();
        let heard = self.last_handshake;
        let silent = heard.is_none_or(|at| now.saturating_sub(at) > SESSION_SECONDS);
        let moved = self.endpoint != want.endpoint && (silent || self.told != want.endpoint);
        let what = What::Set {
            new: false,
            preshared_key: (self.preshared_key != want.preshared_key)
                .then(|| want.preshared_key.clone()),
            endpoint: want.endpoint.filter(|_| moved),
            allowed_ips: (self.allowed_ips != allowed).then_some(allowed),
            persistent_keepalive: (self.persistent_keepalive != want.persistent_keepalive)
                .then_some(want.persistent_keepalive),
        };
        (what != What::nothing()).then_some(what)
    }
}

impl What {
    fn nothing() -> What {
        What::Set {
            new: false,
            preshared_key: None,
            endpoint: None,
            allowed_ips: None,
            persistent_keepalive: None,
        }
    }
}

impl Change {
    /// The endpoints that it sets, by the peers' keys.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (PublicKey, SocketAddr)> {
        self.peers.iter().filter_map(|peer| match &peer.what {
            What::Set { endpoint, .. } => Some((peer.key, (*endpoint)?)),
            What::Remove => None,
        })
    }
}

/// In words, without a secret.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.private_key.as_ref().map(|_| "its key".to_owned()));
        parts.extend(self.listen_port.map(|port| format!("port {port}")));
        parts.extend(self.fw_mark.map(|mark| format!("mark {mark}")));
        parts.extend(self.peers.iter().map(|peer| {
            let key = peer.key.to_string();
            let verb = match peer.what {
                What::Remove => "no more peer",
                What::Set { new: true, .. } => "new peer",
                What::Set { .. } => "peer",
            };
            format!("{verb} {}…", key.get(..8).unwrap_or(&key))
        }));
        f.write_str(&parts.join(", "))
    }
}

/// Reads a link, by number. `None` where it is gone.
pub(crate) async fn read(link: u32) -> anyhow::Result<Option<Device>> {
    let context = "reading the peers of a WireGuard link";
    let mut family = Family::open(message::FAMILY).await.context(context)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let request = message::get(link);
    match family.dump(message::GET_DEVICE, &request).await {
        Ok(parts) => Ok(Some(message::device(&parts, now))),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
        Err(error) => Err(error).context(context),
    }
}

/// Changes a link, by number.
pub(crate) async fn set(link: u32, change: &Change) -> anyhow::Result<()> {
    let context = "the kernel does not take its key or a peer";
    let mut family = Family::open(message::FAMILY).await.context(context)?;
    for part in message::set(link, change) {
        let taken = family.tell(message::SET_DEVICE, &part).await;
        taken.context(context)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "wireguard/tests.rs"]
pub(crate) mod tests;
