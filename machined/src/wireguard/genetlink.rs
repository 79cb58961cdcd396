//! Generic netlink (include/uapi/linux/genetlink.h): a family of messages by its name, and
//! requests to it. What a request means is its family's; here it is attributes.

use super::message::{attributes, put};
use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_GENERIC,
};
use std::{io, time::Duration};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// GENL_ID_CTRL: the family that knows the others.
const CONTROL: u16 = 0x10;
/// CTRL_CMD_GETFAMILY.
const GET_FAMILY: u8 = 3;
/// CTRL_ATTR_FAMILY_ID.
const FAMILY_ID: u16 = 1;
/// CTRL_ATTR_FAMILY_NAME.
const FAMILY_NAME: u16 = 2;

/// NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP of include/uapi/linux/netlink.h.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// NLM_F_DUMP_INTR: what is listed changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const OVERRUN: u16 = 4;
/// The lengths of nlmsghdr and genlmsghdr.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// The kernel answers at once; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a list that changes while it is read is read again.
const TRIES: usize = 3;

/// The attributes of one answer. They may hold keys.
pub(super) type Part = Zeroizing<Vec<u8>>;

/// A family of messages, and a socket for them.
pub(super) struct Family {
    socket: TokioSocket,
    id: u16,
    sequence: u32,
}

impl Family {
    /// Opens a socket for the family of this name.
    pub(super) async fn open(name: &str) -> io::Result<Family> {
        let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
        let mut family = Family {
            socket,
            id: CONTROL,
            sequence: 0,
        };
        let mut request = Zeroizing::default();
        put(&mut request, FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        let (answers, _) = family.ask(GET_FAMILY, ACK, &request).await?;
        let id = answers.iter().find_map(|part| {
            let id = attributes(part).find(|(kind, _)| *kind == FAMILY_ID)?.1;
            Some(u16::from_ne_bytes(id.try_into().ok()?))
        });
        let unknown = || io::Error::other(format!("the kernel knows no messages of {name}"));
        family.id = id.ok_or_else(unknown)?;
        Ok(family)
    }

    /// Has something done.
    pub(super) async fn tell(&mut self, command: u8, request: &[u8]) -> io::Result<()> {
        self.ask(command, ACK, request).await.map(drop)
    }

    /// Has something listed: the attributes of each message.
    pub(super) async fn dump(&mut self, command: u8, request: &[u8]) -> io::Result<Vec<Part>> {
        for _ in 0..TRIES {
            let (parts, whole) = self.ask(command, DUMP, request).await?;
            if whole {
                return Ok(parts);
            }
        }
        Err(io::Error::other("it changes faster than it can be read"))
    }

    async fn ask(
        &mut self,
        command: u8,
        flags: u16,
        request: &[u8],
    ) -> io::Result<(Vec<Part>, bool)> {
        self.sequence += 1;
        let message = self.message(command, REQUEST | flags, request);
        let talk = async {
            self.socket.send(&message).await?;
            let mut answers = Answers::default();
            while !answers.complete {
                let (datagram, from) = self.socket.recv_from_full().await?;
                // The kernel's port is 0: no program can pretend to be it.
                if from.port_number() == 0 {
                    answers.take(&Zeroizing::new(datagram), self.id, self.sequence)?;
                }
            }
            Ok((answers.parts, !answers.interrupted))
        };
        let slow = || io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer");
        timeout(PATIENCE, talk).await.map_err(|_| slow())?
    }

    fn message(&self, command: u8, flags: u16, request: &[u8]) -> Zeroizing<Vec<u8>> {
        let length = HEADER + GENERIC + request.len();
        let mut message = Zeroizing::new(Vec::with_capacity(length));
        message.extend((length as u32).to_ne_bytes());
        message.extend(self.id.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        // The version of the commands that are used here is 1 everywhere.
        message.extend([command, 1, 0, 0]);
        message.extend_from_slice(request);
        message
    }
}

/// What has come of an answer.
#[derive(Debug, Default)]
struct Answers {
    parts: Vec<Part>,
    complete: bool,
    interrupted: bool,
}

impl Answers {
    /// Takes a datagram, which may hold several messages, and may be of an earlier question.
    fn take(&mut self, datagram: &[u8], family: u16, sequence: u32) -> io::Result<()> {
        let mut rest = datagram;
        while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
            let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *header;
            let length = u32::from_ne_bytes([a, b, c, d]) as usize;
            let (kind, flags) = (u16::from_ne_bytes([e, f]), u16::from_ne_bytes([g, h]));
            let Some(body) = rest.get(HEADER..length) else {
                return Err(io::Error::other("an answer of the kernel's is cut short"));
            };
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if u32::from_ne_bytes([i, j, k, l]) != sequence {
                continue;
            }
            self.interrupted |= flags & INTERRUPTED != 0;
            match kind {
                ERROR | DONE => {
                    let code = body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    if code != 0 {
                        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                    }
                    self.complete = true;
                }
                OVERRUN => return Err(io::Error::other("an answer of the kernel's was lost")),
                _ if kind == family => {
                    let part = body.get(GENERIC..).unwrap_or_default();
                    self.parts.push(Zeroizing::new(part.to_vec()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn an_answer_in_parts() {
        let mut answers = Answers::default();
        let part = |sequence, last| message(30, 2, sequence, &[0, 1, 0, 0, last]);
        let first = [part(7, 1), part(6, 9), part(7, 2)].concat();
        answers.take(&first, 30, 7).unwrap();
        assert!(!answers.complete);
        let second = [part(7, 3), message(DONE, 2, 7, &[0; 4])].concat();
        answers.take(&second, 30, 7).unwrap();
        assert!(answers.complete && !answers.interrupted);
        let got: Vec<_> = answers.parts.iter().map(|part| part.to_vec()).collect();
        assert_eq!(got, [[1], [2], [3]]);
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        let refused = message(ERROR, 0, 7, &(-nix::libc::ENODEV).to_ne_bytes());
        let error = Answers::default().take(&refused, 30, 7).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENODEV));
        let mut answers = Answers::default();
        answers.take(&refused, 30, 8).unwrap();
        assert!(!answers.complete, "it is of another question");
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_told() {
        let mut answers = Answers::default();
        let datagram = [
            message(30, INTERRUPTED, 7, &[0; 4]),
            message(DONE, 2, 7, &[0; 4]),
        ];
        answers.take(&datagram.concat(), 30, 7).unwrap();
        assert!(answers.complete && answers.interrupted);
    }

    /// The family of the families is always there, and anybody may ask it.
    #[tokio::test]
    async fn the_kernel_answers() {
        let mut family = Family::open("nlctrl").await.unwrap();
        assert_eq!(family.id, CONTROL);
        let all = family.dump(GET_FAMILY, &[]).await.unwrap();
        let named = |part: &Part| {
            let name = attributes(part).find(|(kind, _)| *kind == FAMILY_NAME);
            name.is_some_and(|(_, name)| name == b"nlctrl\0")
        };
        assert!(all.iter().any(named), "{all:?}");
        let error = Family::open("no-such-family").await.err().unwrap();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOENT));
    }

    proptest! {
        #[test]
        fn no_datagram_stops_it(datagram in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Answers::default().take(&datagram, 30, 7));
        }
    }
}
