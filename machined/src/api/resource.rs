//! `ResourceService`: reads and watches what the nouns publish.

use crate::resource::{Change, Phase, Resource, Store};
use futures_util::Stream;
use keelson_api::v1::{self, resource_service_server::ResourceService, watch_response::Type};
use std::{collections::BTreeMap, pin::Pin, sync::Arc};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Answers with resources.
pub(super) struct Resources(pub(super) Arc<Store>);

#[tonic::async_trait]
impl ResourceService for Resources {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let v1::GetRequest { kind, name } = request.into_inner();
        self.known(&kind)?;
        let resource = self
            .0
            .get(&kind, &name)
            .ok_or_else(|| Status::not_found(format!("there is no {kind} named {name:?}")))?;
        Ok(Response::new(v1::GetResponse {
            resource: Some(message(&resource)),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        let kind = request.into_inner().kind;
        self.known(&kind)?;
        let resources = self.0.list(&kind).iter().map(message).collect();
        Ok(Response::new(v1::ListResponse { resources }))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let kind = request.into_inner().kind;
        self.known(&kind)?;
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(follow(self.0.clone(), kind, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn kinds(
        &self,
        _: Request<v1::KindsRequest>,
    ) -> Result<Response<v1::KindsResponse>, Status> {
        Ok(Response::new(v1::KindsResponse {
            kinds: self.0.kinds(),
        }))
    }
}

impl Resources {
    fn known(&self, kind: &str) -> Result<(), Status> {
        let kinds = self.0.kinds();
        if kinds.iter().any(|known| known == kind) {
            return Ok(());
        }
        Err(Status::not_found(format!(
            "there is no kind of resource {kind:?}; there are {}",
            kinds.join(", ")
        )))
    }
}

type Sender = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// Sends what is there, then what changes, until the reader goes away.
async fn follow(store: Arc<Store>, kind: String, sender: Sender) {
    // Subscribed before the list is read: a change in between is sent twice, never lost.
    let mut changes = store.watch();
    let mut seen = BTreeMap::new();
    if resync(&store, &kind, &mut seen, &sender).await.is_none() {
        return;
    }
    let synced = v1::WatchResponse {
        r#type: Type::Synced.into(),
        resource: None,
    };
    if sender.send(Ok(synced)).await.is_err() {
        return;
    }
    loop {
        let sent = match changes.recv().await {
            Ok(change) => one(change, &kind, &mut seen, &sender).await,
            // Too slow to read every change: the list says what is now.
            Err(RecvError::Lagged(_)) => resync(&store, &kind, &mut seen, &sender).await,
            Err(RecvError::Closed) => None,
        };
        if sent.is_none() {
            return;
        }
    }
}

/// Sends one change if the reader does not have it. `None` when the reader is gone.
async fn one(
    change: Change,
    kind: &str,
    seen: &mut BTreeMap<String, u64>,
    sender: &Sender,
) -> Option<()> {
    let (r#type, resource) = match &change {
        Change::Added(resource) => (Type::Added, resource),
        Change::Updated(resource) => (Type::Updated, resource),
        Change::Removed(resource) => (Type::Removed, resource),
    };
    if resource.kind != kind {
        return Some(());
    }
    if r#type == Type::Removed {
        if seen.remove(&resource.name).is_none() {
            return Some(());
        }
    } else if seen.insert(resource.name.clone(), resource.version) == Some(resource.version) {
        return Some(());
    }
    send(r#type, resource, sender).await
}

/// Sends the difference between what the reader has and what is there.
async fn resync(
    store: &Store,
    kind: &str,
    seen: &mut BTreeMap<String, u64>,
    sender: &Sender,
) -> Option<()> {
    let resources = store.list(kind);
    let gone: Vec<String> = seen
        .keys()
        .filter(|name| !resources.iter().any(|resource| &resource.name == *name))
        .cloned()
        .collect();
    for name in gone {
        seen.remove(&name);
        send(
            Type::Removed,
            &Resource::new(kind, name, Phase::Pending),
            sender,
        )
        .await?;
    }
    for resource in &resources {
        match seen.insert(resource.name.clone(), resource.version) {
            Some(version) if version == resource.version => {}
            before => {
                let r#type = if before.is_some() {
                    Type::Updated
                } else {
                    Type::Added
                };
                send(r#type, resource, sender).await?;
            }
        }
    }
    Some(())
}

async fn send(r#type: Type, resource: &Resource, sender: &Sender) -> Option<()> {
    let answer = v1::WatchResponse {
        r#type: r#type.into(),
        resource: Some(message(resource)),
    };
    sender.send(Ok(answer)).await.ok()
}

fn message(resource: &Resource) -> v1::Resource {
    let phase = match resource.phase {
        Phase::Ready => v1::Phase::Ready,
        Phase::Pending => v1::Phase::Pending,
        Phase::Failed => v1::Phase::Failed,
    };
    v1::Resource {
        kind: resource.kind.clone(),
        name: resource.name.clone(),
        version: resource.version,
        phase: phase.into(),
        message: resource.message.clone(),
        updated: Some(resource.updated.into()),
        spec: Some(structure(&resource.spec)),
    }
}

fn structure(map: &serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
    prost_types::Struct {
        fields: map
            .iter()
            .map(|(key, value)| (key.clone(), protobuf(value)))
            .collect(),
    }
}

fn protobuf(value: &serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(value) => Kind::StringValue(value.clone()),
        serde_json::Value::Array(values) => Kind::ListValue(prost_types::ListValue {
            values: values.iter().map(protobuf).collect(),
        }),
        serde_json::Value::Object(map) => Kind::StructValue(structure(map)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    fn names(answers: &[v1::WatchResponse]) -> Vec<(Type, String)> {
        answers
            .iter()
            .map(|answer| {
                let name = answer
                    .resource
                    .as_ref()
                    .map(|resource| resource.name.clone());
                (answer.r#type(), name.unwrap_or_default())
            })
            .collect()
    }

    #[tokio::test]
    async fn a_watch_tells_what_is_there_then_every_change() {
        let store = Arc::new(Store::new());
        store.replace("link", vec![Resource::new("link", "eth0", Phase::Ready)]);
        let service = Resources(store.clone());
        let request = Request::new(v1::WatchRequest {
            kind: "link".to_owned(),
        });
        let mut stream = service.watch(request).await.unwrap().into_inner();
        let mut answers = Vec::new();
        for _ in 0..2 {
            answers.push(stream.next().await.unwrap().unwrap());
        }
        store.replace("other", vec![Resource::new("other", "x", Phase::Ready)]);
        store.replace("link", vec![Resource::new("link", "eth0", Phase::Failed)]);
        store.replace("link", vec![Resource::new("link", "eth1", Phase::Ready)]);
        for _ in 0..3 {
            answers.push(stream.next().await.unwrap().unwrap());
        }
        let wanted = [
            (Type::Added, "eth0"),
            (Type::Synced, ""),
            (Type::Updated, "eth0"),
            (Type::Added, "eth1"),
            (Type::Removed, "eth0"),
        ];
        assert_eq!(
            names(&answers),
            wanted.map(|(r#type, name)| (r#type, name.to_owned()))
        );
    }

    #[tokio::test]
    async fn an_unknown_kind_is_not_found_and_the_kinds_are_told() {
        let store = Arc::new(Store::new());
        store.replace("link", Vec::new());
        let request = Request::new(v1::ListRequest {
            kind: "lnik".to_owned(),
        });
        let status = Resources(store).list(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::NotFound);
        assert!(status.message().contains("link"), "{}", status.message());
    }
}
