//! Calls as spans of traces: which method, and how it ended. Of a batch there is one for all of its calls.

use super::errors::Code;
use crate::logs::spans::{ended, traced};
use jsonrpsee::{
    server::{
        MethodResponse,
        middleware::rpc::{Batch, Notification, RpcServiceT},
    },
    types::{ErrorCode, Request},
};
use tracing::field::Empty;

/// What answers calls, and tells of them.
#[derive(Clone)]
pub struct Traced<S>(pub S);

impl<S> RpcServiceT for Traced<S>
where
    S: RpcServiceT<MethodResponse = MethodResponse, BatchResponse = MethodResponse>,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = S::NotificationResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let span = traced!("rpc", otel.kind = "server", method = Empty);
        let method = (!span.is_disabled()).then(|| request.method.to_string());
        let answer = self.0.call(request);
        async move {
            let answer = answer.await;
            let Some(method) = method else { return answer };
            let code = answer.as_error_code();
            // What is none of the methods may be anything.
            if code != Some(ErrorCode::MethodNotFound.code()) {
                span.record("method", method);
            }
            // What nobody asked wrongly, and what could not be done now.
            let failed =
                code.is_some_and(|code| [ErrorCode::InternalError.code(), Code::Unavailable.number()].contains(&code));
            ended(&span, &code.map_or_else(|| "ok".into(), |code| code.to_string()), failed);
            answer
        }
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let span = traced!("rpc batch", otel.kind = "server", calls = batch.len() as i64);
        let answers = self.0.batch(batch);
        async move {
            let answers = answers.await;
            ended(&span, "answered", false);
            answers
        }
    }

    fn notification<'a>(&self, n: Notification<'a>) -> impl Future<Output = S::NotificationResponse> + Send + 'a {
        self.0.notification(n)
    }
}
