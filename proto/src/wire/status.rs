//! Between [`Fault`]s and gRPC statuses. The status code is for those who know only gRPC;
//! the metadata `bodhi-code` and `bodhi-param` say the rest.

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::chat::{Fault, FaultCode};

const CODE: &str = "bodhi-code";
const PARAM: &str = "bodhi-param";

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let code = match fault.code {
            FaultCode::InvalidValue | FaultCode::ContextLengthExceeded => Code::InvalidArgument,
            FaultCode::Unsupported => Code::Unimplemented,
            FaultCode::QueueFull => Code::ResourceExhausted,
            FaultCode::ModelLoading | FaultCode::Draining | FaultCode::Lost => Code::Unavailable,
            FaultCode::Failed => Code::Internal,
        };
        let mut metadata = MetadataMap::new();
        metadata.insert(CODE, MetadataValue::from_static(fault.code.as_str()));
        // A name that metadata cannot carry is no name of a parameter.
        let param = fault
            .param
            .and_then(|p| p.parse::<MetadataValue<Ascii>>().ok());
        if let Some(param) = param {
            metadata.insert(PARAM, param);
        }
        Self::with_metadata(code, fault.message, metadata)
    }
}

impl From<&Status> for Fault {
    /// A status without our metadata comes from the transport: the worker was lost, or what
    /// it said is not known here.
    fn from(status: &Status) -> Self {
        let text = |key| status.metadata().get(key).and_then(|v| v.to_str().ok());
        let said = text(CODE).and_then(|c| FaultCode::ALL.into_iter().find(|k| k.as_str() == c));
        let code = said.unwrap_or(match status.code() {
            Code::InvalidArgument | Code::OutOfRange => FaultCode::InvalidValue,
            Code::Unimplemented => FaultCode::Unsupported,
            Code::Unavailable | Code::Unknown | Code::Cancelled => FaultCode::Lost,
            _ => FaultCode::Failed,
        });
        Self {
            code,
            message: status.message().to_owned(),
            param: text(PARAM).map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_back_as_they_were() {
        for code in FaultCode::ALL {
            for param in [None, Some("messages[3].content".to_owned())] {
                let fault = Fault {
                    code,
                    message: "naïve: 120 % of 4096 tokens".to_owned(),
                    param,
                };
                assert_eq!(Fault::from(&Status::from(fault.clone())), fault);
            }
        }
    }

    #[test]
    fn statuses_of_the_transport_mean_that_the_worker_was_lost() {
        let status = Status::unavailable("connection refused");
        assert_eq!(
            Fault::from(&status),
            Fault::new(FaultCode::Lost, "connection refused")
        );
    }

    #[test]
    fn names_that_metadata_cannot_carry_are_left_out() {
        let fault = Fault::new(FaultCode::InvalidValue, "no").of("a\nb");
        assert_eq!(Fault::from(&Status::from(fault)).param, None);
    }
}
