//! The API that OpenAI's clients speak: `/v1/models`, `/v1/completions`, `/v1/chat/completions`, with streams of server-sent events.
//!
//! A request's way: [`access`] decides who may ask, `request` understands it on a thread for blocking work, and `reply` tells what sessions write.
//! Errors are JSON, `{"error": {"message", "type", "param", "code"}}`. What waits for a place is bounded; beyond that the answer is 429 with a
//! `Retry-After`. A client that goes away ends its texts everywhere.

pub mod access;
mod fields;
pub mod keys;
pub mod limits;
mod refusal;
mod reply;
mod request;

use super::{
    host::near,
    hub::Hub,
    model::Model,
    session::{Event, Failure, Reach, Session},
};
use access::{Access, Caller, Grant};
use ailo_proto::{Finish, Logprob};
use ailo_protocol::net;
use ailo_training::text::TextStream;
use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRequest, Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
pub use refusal::Refusal;
use refusal::{full, invalid};
use reply::{Answer, Kind};
use request::Plan;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// Bytes of a request, at most, and how long they may take to come.
const MAX_BODY: usize = 4 << 20;
const COMES: Duration = Duration::from_secs(30);
/// Texts that are written at once, and requests that wait for a place, at most.
const WRITING: usize = 64;
const WAITING: usize = 256;
/// Requests that are being understood at once, at most: tokenizers and templates take their time.
const READING: usize = 4;
/// Pieces that a slow reader may be behind, and how long.
const BEHIND: usize = 64;
const UNREAD: Duration = Duration::from_secs(60);

/// What the routes need.
pub struct Api {
    hub: Arc<Hub>,
    net: Option<net::Handle>,
    /// The model that is served now, if there is one yet.
    model: watch::Receiver<Option<Arc<Model>>>,
    readers: Arc<Semaphore>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Api {
    /// The API for what the hub serves.
    pub fn new(hub: Arc<Hub>, net: Option<net::Handle>, model: watch::Receiver<Option<Arc<Model>>>) -> Arc<Api> {
        let (readers, places) = (Arc::new(Semaphore::new(READING)), Arc::new(Semaphore::new(WRITING)));
        Arc::new(Api { hub, net, model, readers, places, waiting: AtomicUsize::new(0) })
    }

    /// Its routes, for those whom `access` lets in.
    pub fn router(self: &Arc<Api>, access: Arc<Access>) -> Router {
        Router::new()
            .route("/v1/models", get(models))
            .route("/v1/models/{name}", get(model))
            .route("/v1/completions", post(completions))
            .route("/v1/chat/completions", post(chat))
            .fallback(|| async {
                Refusal::new(
                    StatusCode::NOT_FOUND,
                    "",
                    "not_found",
                    "no such path: /v1/models, /v1/completions and /v1/chat/completions are here",
                )
            })
            .method_not_allowed_fallback(|| async {
                Refusal::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "",
                    "method_not_allowed",
                    "the wrong method for this path: GET what is listed, POST what is to be written",
                )
            })
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(middleware::from_fn_with_state(access, access::guard))
            .with_state(self.clone())
    }

    fn model(&self) -> Result<Arc<Model>, Refusal> {
        let model = self.model.borrow().clone();
        model.ok_or_else(|| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "", "no_model", "this node has no model yet: try again soon")
        })
    }

    /// A place among the requests that wait, until it is dropped.
    fn wait(&self) -> Result<Waits<'_>, Refusal> {
        let waits = Waits(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            return Err(full());
        }
        Ok(waits)
    }

    /// What a request asks for. Threads are held until they are done, whoever still waits for it.
    async fn understand(&self, body: Bytes, model: &Arc<Model>, kind: Kind) -> Result<Plan, Refusal> {
        let reader = self.readers.clone().acquire_owned().await.map_err(|_| full())?;
        let model = model.clone();
        let read = move || {
            let _reader = reader;
            match kind {
                Kind::Chat => Plan::chat(&body, &model),
                Kind::Completion => Plan::completion(&body, &model),
            }
        };
        let failed =
            |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "", "unreadable", "reading this request failed");
        tokio::task::spawn_blocking(read).await.map_err(failed)?
    }
}

fn json_of(value: &serde_json::Value) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string())
}

async fn models(State(api): State<Arc<Api>>) -> Response {
    let all: Vec<_> = api.model().iter().map(|model| reply::model(model, &api.hub.known())).collect();
    json_of(&json!({ "object": "list", "data": all })).into_response()
}

async fn model(State(api): State<Arc<Api>>, name: Result<Path<String>, PathRejection>) -> Result<Response, Refusal> {
    let model = api.model()?;
    let Path(name) = name.map_err(|_| Refusal::no_model("?"))?;
    if model.name != name {
        return Err(Refusal::no_model(&name));
    }
    Ok(json_of(&reply::model(&model, &api.hub.known())).into_response())
}

/// Pages of other sites can't send JSON without asking first; they could send a form.
fn json_only(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "",
        "not_json",
        "send JSON, and say so: content-type: application/json",
    ))
}

/// The bytes of a request.
async fn body(request: Request) -> Result<Bytes, Refusal> {
    let late = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "", "too_slow", "the request did not come within 30 s");
    let bytes = tokio::time::timeout(COMES, Bytes::from_request(request, &())).await.map_err(late)?;
    bytes.map_err(|why| match why.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "", "too_large", "a request has 4 MiB at most")
        }
        _ => invalid("", "the request broke off"),
    })
}

async fn completions(state: State<Arc<Api>>, caller: Extension<Caller>, request: Request) -> Result<Response, Refusal> {
    answer(state.0, caller.0, request, Kind::Completion).await
}

async fn chat(state: State<Arc<Api>>, caller: Extension<Caller>, request: Request) -> Result<Response, Refusal> {
    answer(state.0, caller.0, request, Kind::Chat).await
}

/// A piece of one of the texts.
pub(super) struct Piece {
    choice: u32,
    text: String,
    tokens: Vec<(u32, Option<Logprob>)>,
    finish: Option<Finish>,
}

/// What a text holds until it ends.
struct Place {
    _permit: OwnedSemaphorePermit,
    grant: Grant,
}

async fn answer(api: Arc<Api>, caller: Caller, request: Request, kind: Kind) -> Result<Response, Refusal> {
    json_only(request.headers())?;
    let model = api.model()?;
    let body = body(request).await?;
    let waits = api.wait()?;
    let plan = api.understand(body, &model, kind).await?;
    let texts = plan.prompts.len() as u32 * plan.choices;
    if texts as usize > WRITING {
        return Err(invalid("n", "at most 64 texts are written for one request"));
    }
    let grant = caller.begin(texts, plan.most(model.context()))?;
    // All texts of a request hold its place until the last one ends, whoever still reads it.
    let permit = api.places.clone().acquire_many_owned(texts).await.map_err(|_| full())?;
    grant.used(plan.prompts.iter().map(Vec::len).sum());
    let place = Arc::new(Place { _permit: permit, grant });
    drop(waits);

    let round_trips = api.net.as_ref().map(near).unwrap_or_default();
    let (sender, mut pieces) = mpsc::channel(BEHIND);
    for (i, prompt) in plan.prompts.iter().enumerate() {
        for choice in 0..plan.choices {
            let sampling = plan.sampling(prompt, choice, model.context());
            let reach = Reach { near: round_trips.clone(), ..Reach::default() };
            let session = Session::start(&api.hub, &model, reach, prompt.clone(), sampling);
            let choice = i as u32 * plan.choices + choice;
            let begin = plan.begins.get(i).cloned().unwrap_or_default();
            let (stops, place) = (plan.stops.clone(), place.clone());
            let stream = prompt.clone();
            tokio::spawn(write(session, (model.clone(), stream), (begin, stops), choice, sender.clone(), place));
        }
    }
    drop(sender);
    let mut answer = Answer::new(kind, model, &plan);
    if !plan.stream {
        while let Some(piece) = pieces.recv().await {
            answer.take(piece.map_err(|why| Refusal::from(&why))?);
        }
        return Ok(json_of(&answer.whole()).into_response());
    }
    let (usage, events) = (plan.usage, (pieces, answer, Progress::Begin));
    let stream = futures::stream::unfold(events, move |(mut pieces, mut answer, state)| async move {
        let (bytes, state) = match state {
            Progress::Begin => (answer.beginning(), Progress::Pieces),
            Progress::Pieces => match pieces.recv().await {
                Some(Ok(piece)) => (answer.piece(piece), Progress::Pieces),
                Some(Err(why)) => (reply::event(&Refusal::from(&why).body()), Progress::End),
                None if usage => (answer.usage(), Progress::Done),
                None => ("data: [DONE]\n\n".into(), Progress::End),
            },
            Progress::Done => ("data: [DONE]\n\n".into(), Progress::End),
            Progress::End => return None,
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(bytes)), (pieces, answer, state)))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// A request that waits for its place.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a stream of events is.
enum Progress {
    Begin,
    Pieces,
    Done,
    End,
}

/// Writes one text: tokens become text, of which nothing is given out that may be the beginning of a stop text.
async fn write(
    mut session: Session,
    (model, prompt): (Arc<Model>, Vec<u32>),
    (begin, stops): (String, Vec<String>),
    choice: u32,
    out: mpsc::Sender<Result<Piece, Failure>>,
    place: Arc<Place>,
) {
    let (mut stream, mut held) = (TextStream::after(&model.text, &prompt), String::new());
    if !begin.is_empty() && out.send(Ok(Piece { choice, text: begin, tokens: Vec::new(), finish: None })).await.is_err()
    {
        return;
    }
    loop {
        // Who has gone away is noticed before the next token.
        let event = tokio::select! {
            event = session.next() => event,
            () = out.closed() => return,
        };
        let Some(event) = event else { return };
        let mut piece = Piece { choice, text: String::new(), tokens: Vec::new(), finish: None };
        match event {
            Event::Token(token, logprob) => {
                place.grant.used(1);
                // What ends a text is no part of it.
                if !model.ends.contains(&token) {
                    held.push_str(&stream.push(token));
                }
                piece.tokens.push((token, logprob));
                if let Some(at) = stops.iter().filter_map(|stop| held.find(stop.as_str())).min() {
                    held.truncate(at);
                    (piece.text, piece.finish) = (held, Some(Finish::Stop));
                    let _ = out.send(Ok(piece)).await; // Nobody waits for it any more.
                    return;
                }
                let keep = longest_beginning(&held, &stops);
                piece.text = held.drain(..held.len() - keep).collect();
            }
            Event::Finished(finish) => {
                held.push_str(&stream.finish());
                let end = stops.iter().filter_map(|stop| held.find(stop.as_str())).min();
                held.truncate(end.unwrap_or(held.len()));
                (piece.text, piece.finish) = (held, Some(end.map_or(finish, |_| Finish::Stop)));
                let _ = out.send(Ok(piece)).await;
                return;
            }
            Event::Failed(why) => {
                let _ = out.send(Err(why)).await;
                return;
            }
        }
        if out.send_timeout(Ok(piece), UNREAD).await.is_err() {
            return;
        }
    }
}

/// Bytes at the end of `text` that one of the stop texts may begin with.
fn longest_beginning(text: &str, stops: &[String]) -> usize {
    let begins = |stop: &String| {
        let most = text.len().min(stop.len().saturating_sub(1));
        (1..=most).rev().find(|size| text.as_bytes().ends_with(&stop.as_bytes()[..*size])).unwrap_or(0)
    };
    let keep = stops.iter().map(begins).max().unwrap_or(0);
    // Never inside a character.
    (keep..=text.len()).find(|keep| text.is_char_boundary(text.len() - keep)).unwrap_or(text.len())
}
