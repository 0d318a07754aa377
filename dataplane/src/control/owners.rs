//! Asks the controller whose a response is, and tells it of new ones.

use std::time::Duration;

use bodhi_proto::names::ObjectRef;
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::responses_client::ResponsesClient;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::proxy::{LookupFuture, OwnerLookup, ResponseRecord, Unavailable};

/// A question is given up after this long; callers may wait less.
const MOST: Duration = Duration::from_secs(2);

/// The controller's records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ControllerOwners {
    client: ResponsesClient<Channel>,
}

impl ControllerOwners {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            client: ResponsesClient::new(channel).max_decoding_message_size(64 << 10),
        }
    }
}

impl OwnerLookup for ControllerOwners {
    fn find(&self, id: &str) -> LookupFuture<Option<ResponseRecord>> {
        let mut client = self.client.clone();
        let id = id.to_owned();
        Box::pin(async move {
            let request = pb::FindRequest { id: id.clone() };
            let reply = answered(timeout(MOST, client.find(request)).await)?;
            let Some(owner) = reply.owner else {
                return Ok(None);
            };
            Ok(Some(ResponseRecord {
                id: id.into(),
                upstream: ObjectRef::parse(&owner.upstream).map_err(|_| Unavailable)?,
                owner: owner.owner.into(),
            }))
        })
    }

    fn record(&self, record: ResponseRecord) -> LookupFuture<()> {
        let mut client = self.client.clone();
        Box::pin(async move {
            let request = pb::RecordRequest {
                id: record.id.to_string(),
                owner: Some(pb::ResponseOwner {
                    owner: record.owner.to_string(),
                    upstream: record.upstream.to_string(),
                }),
            };
            answered(timeout(MOST, client.record(request)).await)?;
            Ok(())
        })
    }
}

fn answered<T, E>(
    answer: Result<Result<tonic::Response<T>, tonic::Status>, E>,
) -> Result<T, Unavailable> {
    match answer {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(%status, "the controller did not answer about a response");
            Err(Unavailable)
        }
        Err(_) => Err(Unavailable),
    }
}
