//! The talk with machined: its requests, the answers and the events. Neither a machined
//! that is slow nor one that is gone holds up anything here.

use super::{Cause, MACHINED, Supervisor};
use crate::{
    clock::now,
    console::{self, Level},
    protocol::{self, Spec},
    service::{Input, Output},
    supervise::{BATCH, Ending},
};
use keelson_api::{INIT_DATAGRAM, init as pb};
use keelson_sys::packet::{self, Received, Sent};
use prost::Message as _;

impl Supervisor {
    /// Reads machined's requests, as long as it takes its answers.
    pub(super) fn read_requests(&mut self) {
        for _ in 0..BATCH {
            let Some(link) = self.link.as_ref().filter(|link| link.outbox.is_empty()) else {
                return;
            };
            match packet::receive(&link.fd, INIT_DATAGRAM) {
                Ok(Received::Packet(bytes)) => match pb::Request::decode(&bytes[..]) {
                    Ok(request) => self.request(request),
                    Err(error) => self.respond(0, Err(format!("that is no request: {error}"))),
                },
                Ok(Received::TooLarge) => {
                    self.respond(
                        0,
                        Err(format!("a request is at most {INIT_DATAGRAM} bytes")),
                    );
                }
                Ok(Received::Empty) => return,
                Ok(Received::Closed) => return self.disconnect("machined closed its socket"),
                Err(error) => {
                    return self.disconnect(&format!("machined's socket failed: {error}"));
                }
            }
            self.flush();
        }
    }

    fn request(&mut self, request: pb::Request) {
        use pb::{request::Body, response::Body as Answer};
        let result = match request.body {
            Some(Body::Start(start)) => self.start_new(start).map(|pid| {
                Some(Answer::Started(pb::Started {
                    pid: pid.unsigned_abs(),
                }))
            }),
            Some(Body::Stop(stop)) => self.stop(&stop).map(|()| None),
            Some(Body::List(_)) => Ok(Some(Answer::Services(self.table.list()))),
            Some(Body::Power(power)) => self.power(power).map(|()| None),
            Some(Body::Alive(_)) => {
                if let Some(alive) = &mut self.alive {
                    alive.heard(now());
                }
                Ok(None)
            }
            Some(Body::KeyAnswer(answer)) => {
                self.key_answered(answer.within_ms.into());
                Ok(None)
            }
            Some(Body::Watchdog(watchdog)) => match watchdog.timeout_seconds {
                0 => Ok(self.watchdog.state()),
                seconds => self.watchdog.set_timeout(seconds),
            }
            .map(|state| Some(Answer::Watchdog(state))),
            None => Err("a request that this init does not know".into()),
        };
        self.respond(request.id, result);
    }

    fn start_new(&mut self, start: pb::Start) -> Result<i32, String> {
        let spec = Spec::check(start, &self.log_roots).map_err(|refusal| refusal.to_string())?;
        let name = spec.name.clone();
        self.table.add(spec)?;
        self.start(&name)
    }

    fn stop(&mut self, stop: &pb::Stop) -> Result<(), String> {
        let (signal, grace, kill_cgroup) =
            protocol::check_stop(stop).map_err(|refusal| refusal.to_string())?;
        match self.table.get_mut(&stop.name) {
            None => return Err(format!("there is no service named {:?}", stop.name)),
            Some(entry) if entry.service.life().is_none() => {
                return Err(format!("{} does not run", stop.name));
            }
            Some(_) => {}
        }
        self.input(
            &stop.name,
            Input::Stop {
                signal,
                grace,
                kill_cgroup,
            },
        );
        Ok(())
    }

    fn power(&mut self, power: pb::Power) -> Result<(), String> {
        let action = power.action();
        if action == pb::power::Action::Unspecified {
            return Err("the action is missing".into());
        }
        self.ending = Some(Ending {
            action,
            cause: Cause::Asked,
            reason: power.reason,
        });
        Ok(())
    }

    fn respond(&mut self, id: u64, result: Result<Option<pb::response::Body>, String>) {
        if let Some(link) = &mut self.link {
            link.outbox
                .response(protocol::response(id, result).encode_to_vec());
        }
    }

    pub(super) fn event(&mut self, body: pb::message::Body) {
        if let Some(link) = &mut self.link {
            link.outbox
                .event(pb::Message { body: Some(body) }.encode_to_vec());
        }
    }

    /// Sends what waits, as far as machined takes it.
    pub(super) fn flush(&mut self) {
        loop {
            let Some(link) = &mut self.link else { return };
            if link.outbox.take_lost() {
                let list = pb::response::Body::Services(self.table.list());
                self.respond(0, Ok(Some(list)));
                continue;
            }
            let Some(bytes) = link.outbox.front() else {
                return;
            };
            match packet::send(&link.fd, bytes) {
                Ok(Sent::Whole) => link.outbox.pop(),
                Ok(Sent::Full) => return,
                Ok(Sent::Closed) => return self.disconnect("machined closed its socket"),
                Err(error) => {
                    return self.disconnect(&format!("machined's socket failed: {error}"));
                }
            }
        }
    }

    /// Without its socket machined can do nothing for the machine: it is ended, if it
    /// has not ended already, and started again with a new one.
    fn disconnect(&mut self, why: &str) {
        console::log(Level::Warning, why);
        self.link = None;
        let life = self
            .table
            .get_mut(MACHINED)
            .and_then(|entry| entry.service.life().cloned());
        if let Some(life) = life {
            self.output(
                MACHINED,
                Output::Signal {
                    pid: life.pid,
                    signal: 9,
                },
            );
        }
    }
}
