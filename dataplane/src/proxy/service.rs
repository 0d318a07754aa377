//! The request path as the listener's service.

use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;

use super::{Proxy, ReplyBody};
use crate::api::Surface;
use crate::api::error::Failure;
use crate::serve::{ConnInfo, Refusal, Service};

impl Service for Proxy {
    type Body = ReplyBody;

    async fn call(self: Rc<Self>, request: Request<Incoming>, _: ConnInfo) -> Response<ReplyBody> {
        self.handle(request).await
    }

    fn refuse(&self, request: &Request<Incoming>, refusal: Refusal) -> Response<ReplyBody> {
        let failure = match refusal {
            Refusal::TooManyHeaders => Failure::TooManyHeaders,
            Refusal::Framing(_) | Refusal::Upgrade | Refusal::Method | Refusal::Host => {
                Failure::InvalidRequest {
                    code: "invalid_http",
                    message: format!("{refusal}."),
                    param: None,
                }
            }
        };
        let mut exchange = self.begin(request);
        exchange.failed(&failure);
        let surface = Surface::of(request.uri().path(), request.headers());
        let response = failure.response(surface, &exchange.id().to_string());
        let status = response.status().as_u16();
        response.map(|body| exchange.full(status, body))
    }
}
