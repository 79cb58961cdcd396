//! What apid alone may ask: the credentials to serve with.

use crate::{engine::Handle, identity::Credentials};
use futures_util::{Stream, StreamExt as _};
use keelson_api::internal::{
    CredentialsRequest, CredentialsResponse, apid_service_server::ApidService,
};
use std::{pin::Pin, sync::Arc};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

/// Answers apid.
pub(super) struct Apid(pub(super) Handle);

#[tonic::async_trait]
impl ApidService for Apid {
    type CredentialsStream =
        Pin<Box<dyn Stream<Item = Result<CredentialsResponse, Status>> + Send>>;

    async fn credentials(
        &self,
        _: Request<CredentialsRequest>,
    ) -> Result<Response<Self::CredentialsStream>, Status> {
        let stream = WatchStream::new(self.0.credentials())
            .filter_map(|credentials| async move { credentials.map(|now| Ok(message(&now))) });
        Ok(Response::new(Box::pin(stream)))
    }
}

fn message(credentials: &Arc<Credentials>) -> CredentialsResponse {
    CredentialsResponse {
        chain: credentials.chain.clone(),
        key: credentials.key.to_vec(),
        client_ca: credentials.client_ca.clone().unwrap_or_default(),
        port: keelson_api::PORT.into(),
    }
}
