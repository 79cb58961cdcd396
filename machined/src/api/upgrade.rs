//! `UpgradeService`: each method is a question to the task that owns upgrades.

use super::caller;
use crate::upgrade::{Back, Options, Upgrades};
use bytes::Bytes;
use keelson_api::v1::{self, upgrade_service_server::UpgradeService, upload_request::Body};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

/// How many pieces may wait to be written: a fast client waits for a slow disk.
const WAITING: usize = 4;

/// Answers for upgrades.
pub(super) struct Upgrade(pub(super) Upgrades);

#[tonic::async_trait]
impl UpgradeService for Upgrade {
    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let by = caller::source(&request);
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|first| first.body);
        let Some(Body::Options(asked)) = first else {
            return Err(Status::invalid_argument(
                "the first message must hold the options",
            ));
        };
        let (pieces, upload) = mpsc::channel(WAITING);
        tokio::spawn(pass_on(stream, pieces));
        let version = self.0.upload(options(Some(asked)), upload, by).await?;
        Ok(Response::new(v1::UploadResponse { version }))
    }

    async fn pull(
        &self,
        request: Request<v1::PullRequest>,
    ) -> Result<Response<v1::PullResponse>, Status> {
        let by = caller::source(&request);
        let v1::PullRequest {
            options: asked,
            url,
        } = request.into_inner();
        self.0.pull(options(asked), url, by).await?;
        Ok(Response::new(v1::PullResponse {}))
    }

    async fn cancel(
        &self,
        _: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        self.0.cancel().await?;
        Ok(Response::new(v1::CancelResponse {}))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::RollbackResponse>, Status> {
        let by = caller::source(&request);
        let v1::RollbackRequest {
            force,
            restore_snapshot,
        } = request.into_inner();
        let back = Back {
            force,
            restore_snapshot,
        };
        let version = self.0.rollback(back, by).await?;
        Ok(Response::new(v1::RollbackResponse { version }))
    }

    async fn forgive(
        &self,
        request: Request<v1::ForgiveRequest>,
    ) -> Result<Response<v1::ForgiveResponse>, Status> {
        self.0.forgive(request.into_inner().version).await?;
        Ok(Response::new(v1::ForgiveResponse {}))
    }
}

fn options(asked: Option<v1::UpgradeOptions>) -> Options {
    let v1::UpgradeOptions { stage, force } = asked.unwrap_or_default();
    Options { stage, force }
}

/// Passes a client's bytes on until it ends, goes away, or nobody wants more.
async fn pass_on(
    mut stream: Streaming<v1::UploadRequest>,
    pieces: mpsc::Sender<Result<Bytes, String>>,
) {
    loop {
        let piece = match stream.message().await {
            Ok(Some(v1::UploadRequest {
                body: Some(Body::Data(data)),
            })) => Ok(data.into()),
            Ok(Some(_)) => Err("the client sent something else than bytes".to_owned()),
            Ok(None) => return,
            Err(status) => Err(format!("the client went away: {}", status.message())),
        };
        let last = piece.is_err();
        // An error says that nobody wants more.
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}
