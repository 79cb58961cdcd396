//! `MachineService`: each method is a question to the engine.

use super::caller;
use crate::engine::{Apply, DEFAULT_TRY, End, Error, Handle, Mode, Power};
use futures_util::{Stream, StreamExt as _, stream};
use keelson_api::v1::{self, health_check::State, machine_service_server::MachineService};
use std::{io, pin::Pin, sync::Arc};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

/// Answers for the machine.
pub(super) struct Machine(pub(super) Handle);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl MachineService for Machine {
    type LogsStream = Answers<v1::LogsResponse>;
    type DmesgStream = Answers<v1::DmesgResponse>;
    type HealthStream = Answers<v1::HealthResponse>;
    type EventsStream = Answers<v1::Event>;

    async fn version(
        &self,
        _: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        let facts = self.0.facts();
        let (orchestrator_name, orchestrator_version) = facts
            .release
            .orchestrator
            .as_ref()
            .map(|it| (it.name.clone(), it.version.clone()))
            .unwrap_or_default();
        Ok(Response::new(v1::VersionResponse {
            version: facts.release.version.clone(),
            arch: facts.release.arch.clone(),
            kernel: facts.kernel.clone(),
            root_hash: facts.root_hash.clone(),
            orchestrator_name,
            orchestrator_version,
            maintenance: self.0.config().is_none(),
            machine_id: self.0.machine_id(),
        }))
    }

    async fn apply_config(
        &self,
        request: Request<v1::ApplyConfigRequest>,
    ) -> Result<Response<v1::ApplyConfigResponse>, Status> {
        let source = caller::source(&request);
        let only_first = caller::is_maintenance(&request);
        let v1::ApplyConfigRequest {
            config,
            dry_run,
            file_name,
            expected_generation,
            mode,
            try_for,
        } = request.into_inner();
        let apply = Apply {
            config: config.into(),
            file_name,
            source,
            dry_run,
            only_first,
            expected_generation: (expected_generation != 0).then_some(expected_generation),
            mode: self::mode(mode, try_for)?,
        };
        match self.0.apply(apply).await {
            Ok(applied) => Ok(Response::new(v1::ApplyConfigResponse {
                diagnostics: applied.diagnostics,
                steps: applied.steps,
                steps_unknown: applied.steps_unknown,
                generation: applied.generation,
                after_reboot: applied.after_reboot,
                until: applied.until.map(Into::into),
            })),
            // The errors are the answer: a status has no room for their places.
            Err(Error::InvalidConfig(diagnostics)) => Ok(Response::new(v1::ApplyConfigResponse {
                diagnostics,
                ..Default::default()
            })),
            Err(error) => Err(error.into()),
        }
    }

    async fn confirm_config(
        &self,
        request: Request<v1::ConfirmConfigRequest>,
    ) -> Result<Response<v1::ConfirmConfigResponse>, Status> {
        let generation = self.0.confirm(caller::source(&request)).await?;
        Ok(Response::new(v1::ConfirmConfigResponse { generation }))
    }

    async fn revert_config(
        &self,
        request: Request<v1::RevertConfigRequest>,
    ) -> Result<Response<v1::RevertConfigResponse>, Status> {
        let reverted = self.0.revert(caller::source(&request)).await?;
        Ok(Response::new(v1::RevertConfigResponse {
            tried: reverted.tried,
            staged: reverted.staged.unwrap_or(0),
        }))
    }

    async fn get_config(
        &self,
        request: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::GetConfigResponse>, Status> {
        let show_secrets = request.get_ref().show_secrets;
        if show_secrets && !caller::is_admin(&request) {
            return Err(Status::permission_denied(
                "secrets are shown to the role os:admin only",
            ));
        }
        let stored = self.0.config().ok_or_else(|| {
            Status::failed_precondition("this machine waits for its first config")
        })?;
        let config = if show_secrets {
            stored.bytes.to_vec()
        } else {
            keelson_config::redact(&stored.bytes)
        };
        let pending = self.0.pending();
        let tried = pending.tried.map(|tried| v1::TriedConfig {
            until: Some(tried.until.into()),
            source: tried.source,
        });
        let staged = pending.staged.map(|staged| v1::StagedConfig {
            generation: staged.generation,
            applied: Some(staged.applied.into()),
            source: staged.source,
        });
        Ok(Response::new(v1::GetConfigResponse {
            config,
            generation: stored.generation,
            applied: Some(stored.applied.into()),
            source: stored.source.clone(),
            tried,
            staged,
        }))
    }

    async fn list_services(
        &self,
        _: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        Ok(Response::new(v1::ListServicesResponse {
            services: self.0.services().to_vec(),
        }))
    }

    async fn restart_service(
        &self,
        request: Request<v1::RestartServiceRequest>,
    ) -> Result<Response<v1::RestartServiceResponse>, Status> {
        self.0.restart_service(request.into_inner().name).await?;
        Ok(Response::new(v1::RestartServiceResponse {}))
    }

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let v1::LogsRequest {
            service,
            tail_lines,
            follow,
        } = request.into_inner();
        let tail = (tail_lines != 0).then_some(tail_lines);
        let pieces = self.0.logs(&service, tail, follow)?;
        let answers = pieces.map(move |piece| match piece {
            Ok(data) => Ok(v1::LogsResponse { data: data.into() }),
            Err(error) => Err(unreadable(&format!("the log of {service}"), &error)),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn dmesg(
        &self,
        request: Request<v1::DmesgRequest>,
    ) -> Result<Response<Self::DmesgStream>, Status> {
        let records = self.0.dmesg(request.into_inner().follow)?;
        let answers = records.map(|record| {
            let record = record.map_err(|error| unreadable("the kernel's log", &error))?;
            Ok(v1::DmesgResponse {
                sequence: record.sequence,
                timestamp_us: record.timestamp_us,
                priority: record.priority,
                message: record.message,
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn kubeconfig(
        &self,
        request: Request<v1::KubeconfigRequest>,
    ) -> Result<Response<v1::KubeconfigResponse>, Status> {
        let server = request.into_inner().server;
        let server = (!server.is_empty()).then_some(server);
        let kubeconfig = self.0.kubeconfig(server.as_deref()).await?;
        Ok(Response::new(v1::KubeconfigResponse { kubeconfig }))
    }

    async fn reboot(
        &self,
        request: Request<v1::RebootRequest>,
    ) -> Result<Response<v1::RebootResponse>, Status> {
        let source = caller::source(&request);
        let end = End {
            action: Power::Reboot,
            force: request.get_ref().force,
            snapshot_for: None,
        };
        self.0.power(end, source).await?;
        Ok(Response::new(v1::RebootResponse {}))
    }

    async fn shutdown(
        &self,
        request: Request<v1::ShutdownRequest>,
    ) -> Result<Response<v1::ShutdownResponse>, Status> {
        let source = caller::source(&request);
        let end = End {
            action: Power::Off,
            force: request.get_ref().force,
            snapshot_for: None,
        };
        self.0.power(end, source).await?;
        Ok(Response::new(v1::ShutdownResponse {}))
    }

    async fn health(
        &self,
        request: Request<v1::HealthRequest>,
    ) -> Result<Response<Self::HealthStream>, Status> {
        let health = self.0.health();
        let answers: Self::HealthStream = if request.into_inner().watch {
            Box::pin(WatchStream::new(health).map(|checks| Ok(summary(&checks))))
        } else {
            let now = summary(&health.borrow());
            Box::pin(stream::once(async move { Ok(now) }))
        };
        Ok(Response::new(answers))
    }

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let events = self.0.events(request.into_inner().replay);
        Ok(Response::new(Box::pin(events.map(Ok))))
    }
}

fn summary(checks: &Arc<Vec<v1::HealthCheck>>) -> v1::HealthResponse {
    v1::HealthResponse {
        healthy: !checks.is_empty() && checks.iter().all(|check| check.state() == State::Healthy),
        checks: checks.to_vec(),
    }
}

fn unreadable(what: &str, error: &io::Error) -> Status {
    Status::internal(format!("reading {what}: {error}"))
}
/// When a config counts.
fn mode(mode: i32, try_for: Option<prost_types::Duration>) -> Result<Mode, Error> {
    use v1::apply_config_request::Mode as Word;
    let mode = match Word::try_from(mode) {
        Ok(Word::Unspecified | Word::Auto) => Mode::Auto,
        Ok(Word::NoReboot) => Mode::NoReboot,
        Ok(Word::Staged) => Mode::Staged,
        Ok(Word::Reboot) => Mode::Reboot,
        Ok(Word::Try) => {
            let length = match try_for {
                None => DEFAULT_TRY,
                Some(length) => length.try_into().map_err(|_| {
                    Error::InvalidArgument("a config is not tried for less than no time".into())
                })?,
            };
            return Ok(Mode::Try(length));
        }
        // Whoever asks for what is not known here gets nothing else in its place.
        Err(_) => {
            let text = format!("this version knows no mode {mode} of applying a config");
            return Err(Error::InvalidArgument(text));
        }
    };
    match try_for {
        None => Ok(mode),
        Some(_) => Err(Error::InvalidArgument(
            "try_for is for the mode MODE_TRY only".into(),
        )),
    }
}
