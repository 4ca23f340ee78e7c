//! Why a request is not answered, in the form that OpenAI's clients know: a status, and `{"error": {"message", "type", "param", "code"}}`.
//!
//! | what fails | status | type | `Retry-After` |
//! | --- | --- | --- | --- |
//! | the request itself | 400 and others | `invalid_request_error` | |
//! | nobody serves a part of the model, or all who do are full or fail | 503 | `server_error` | yes |
//! | the money of who asks, or of the node that asks for them | 402 | `insufficient_quota` | |
//! | a limit of the key, or of this node | 429 | `requests`, `tokens` | yes |
//! | the text, wherever it is computed | 500 | `server_error` | |

use crate::inference::{payment::Unpayable, session::Failure};
use ailo_protocol::inference::client;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// Seconds after which somebody may serve what nobody serves now: announcements come as often.
const ANNOUNCED: u64 = 5;

/// Why a request is not answered.
#[derive(Debug)]
pub struct Refusal {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) param: String,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// Seconds after which it may work; 0 if that is not a matter of time.
    pub(super) wait: u64,
    /// What the rest of the text is asked for by, if it is kept.
    pub(super) resume: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, param: &str, code: &'static str, message: &str) -> Refusal {
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "requests",
            StatusCode::PAYMENT_REQUIRED => "insufficient_quota",
            _ if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let wait = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE).into();
        Refusal { status, kind, param: param.into(), code, message: message.into(), wait, resume: None }
    }

    pub(super) fn no_model(name: &str) -> Refusal {
        let message = format!("the model '{name}' is not served here: GET /v1/models lists what is");
        Refusal::new(StatusCode::NOT_FOUND, "model", "model_not_found", &message)
    }

    /// Others serve the model, and this node answers for its own alone: it has no tokenizer and no template of theirs.
    pub(super) fn elsewhere(name: &str, own: &str) -> Refusal {
        let message = format!(
            "other nodes of this network serve the model '{name}', and this one answers for '{own}' alone: ask a node that runs with --model {name}, or start one (with --layers 0..0 it only asks)"
        );
        Refusal::new(StatusCode::NOT_FOUND, "model", "model_not_found", &message)
    }

    pub(super) fn too_long(param: &str, message: &str) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, param, "context_length_exceeded", message)
    }

    /// The object that says so, as a body or an event.
    pub(super) fn body(&self) -> serde_json::Value {
        let param = (!self.param.is_empty()).then_some(&self.param);
        let mut error = json!({ "message": self.message, "type": self.kind, "param": param, "code": self.code });
        if let Some(id) = &self.resume {
            error["resume"] = json!(id);
        }
        json!({ "error": error })
    }
}

/// A field of the request that can't be followed.
pub(super) fn invalid(param: &str, message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, param, "invalid_value", message)
}

/// All places are taken.
pub(super) fn full() -> Refusal {
    let message = "as many texts are written as can be: try again soon";
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "", "rate_limit_exceeded", message)
}

impl From<&Failure> for Refusal {
    fn from(why: &Failure) -> Refusal {
        use client::Failure as Text;
        const LATER: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        const MONEY: StatusCode = StatusCode::PAYMENT_REQUIRED;
        const NEVER: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;
        let (status, code, advice, wait) = match why {
            Failure::Text(Text::Unserved { .. }) => {
                (LATER, "no_replica", "try again when somebody serves them", ANNOUNCED)
            }
            Failure::Text(Text::Full { .. }) => (LATER, "stages_full", "try again soon, or ask for fewer tokens", 1),
            Failure::Text(Text::Hangs(_)) => (LATER, "stages_fail", "try again soon", 1),
            Failure::Text(Text::Unpaid { .. }) => {
                (MONEY, "payment_refused", "`ailo-node wallet deposit` adds to the deposit", 0)
            }
            Failure::Text(Text::Refused(_)) => (NEVER, "stage_refused", "ask for less, or otherwise", 0),
            Failure::Text(Text::Compute(_)) => (NEVER, "text_fails", "ask otherwise", 0),
            Failure::Money(Unpayable::Dear { .. }) => (MONEY, "price_too_high", "", 0),
            Failure::Money(Unpayable::Price) => (MONEY, "price_too_high", "ask again when prices are lower", 0),
            Failure::Money(Unpayable::Deposit { .. }) => (MONEY, "no_deposit", "", 0),
            Failure::Money(Unpayable::Day { .. }) => (MONEY, "daily_limit", "", 0),
            Failure::Money(Unpayable::Request { .. }) => (MONEY, "max_alc", "'max_alc' sets the limit", 0),
            Failure::Money(Unpayable::Key { .. }) => {
                (MONEY, "key_limit", "wait for the next day (UTC), or ask who runs this node for more", 0)
            }
            Failure::Money(Unpayable::Disk(_)) => (NEVER, "not_written", "look at this node's data folder", 0),
        };
        let message = if advice.is_empty() { why.to_string() } else { format!("{why}: {advice}") };
        Refusal { wait, ..Refusal::new(status, "", code, &message) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, super::json_of(&self.body())).into_response();
        if self.wait > 0 {
            response.headers_mut().insert(header::RETRY_AFTER, self.wait.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_protocol::Amount;

    #[test]
    fn each_kind_of_failure_has_its_status_and_says_what_to_do() {
        use client::Failure as Text;
        let (layers, last) = (2..4, String::from(" (it is gone)"));
        let (left, asked, most) = (Amount(1), Amount::alc(2), Some(Amount(1)));
        let mut codes = std::collections::HashSet::new();
        for (why, status, kind, wait, says) in [
            (
                Text::Unserved { layers: layers.clone(), last: last.clone() }.into(),
                503,
                "server_error",
                ANNOUNCED,
                "layers 2 to 3",
            ),
            (Text::Full { layers: layers.clone(), last: last.clone() }.into(), 503, "server_error", 1, "soon"),
            (Text::Hangs("it hangs".into()).into(), 503, "server_error", 1, "soon"),
            (Text::Unpaid { layers: layers.clone(), last }.into(), 402, "insufficient_quota", 0, "wallet deposit"),
            (Text::Refused("too long".into()).into(), 500, "server_error", 0, "too long"),
            (Text::Compute("it is no number".into()).into(), 500, "server_error", 0, "no number"),
            (Unpayable::Dear { layers: layers.clone(), price: asked, most: None }.into(), 402, "", 0, "--spend"),
            (Unpayable::Deposit { left, asked }.into(), 402, "", 0, "wallet deposit"),
            (Unpayable::Day { spent: left, limit: left, asked }.into(), 402, "", 0, "--spend"),
            (Unpayable::Request { spent: left, most: left, asked }.into(), 402, "", 0, "'max_alc'"),
            (Unpayable::Key { spent: left, limit: left, asked }.into(), 402, "", 0, "next day"),
            (Unpayable::Disk("full".into()).into(), 500, "server_error", 0, "data folder"),
        ] {
            let why: Failure = why;
            let refusal = Refusal::from(&why);
            let kind = if kind.is_empty() { "insufficient_quota" } else { kind };
            assert_eq!((refusal.status.as_u16(), refusal.kind, refusal.wait), (status, kind, wait), "{why:?}");
            assert!(refusal.message.contains(says), "{}", refusal.message);
            assert!(codes.insert(refusal.code), "{} means one thing", refusal.code);
            let response = refusal.into_response();
            assert_eq!(response.headers().get(header::RETRY_AFTER).is_some(), wait > 0);
        }
        let dear = Refusal::from(&Failure::from(Unpayable::Dear { layers, price: asked, most }));
        assert!(dear.code == "price_too_high" && dear.message.contains("2 ALC"), "{}", dear.message);
    }
}
