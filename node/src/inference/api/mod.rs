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
mod writing;

use super::{
    host::near,
    hub::Hub,
    model::Model,
    session::{Event, Failure, Reach, Session},
};
use access::{Access, Caller, Grant};
use ailo_proto::{Finish, Logprob};
use ailo_protocol::net;
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
use writing::Writing;

/// Bytes of a request, at most, and how long they may take to come.
const MAX_BODY: usize = 4 << 20;
const COMES: Duration = Duration::from_secs(30);
/// Requests that are being understood at once, at most: tokenizers and templates take their time.
const READING: usize = 4;
/// Pieces that a slow reader may be behind.
const BEHIND: usize = 64;

/// How much is done at once, and how long whoever asks may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Texts that are written at once, at most.
    pub writing: usize,
    /// Requests that wait for a place, at most.
    pub waiting: usize,
    /// How long a slow reader may be as far behind as it can be; then its text ends.
    pub unread: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { writing: 64, waiting: 256, unread: Duration::from_secs(60) }
    }
}

/// What the routes need.
pub struct Api {
    bounds: Bounds,
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
    pub fn new(
        hub: Arc<Hub>,
        net: Option<net::Handle>,
        model: watch::Receiver<Option<Arc<Model>>>,
        bounds: Bounds,
    ) -> Arc<Api> {
        let (readers, places) = (Arc::new(Semaphore::new(READING)), Arc::new(Semaphore::new(bounds.writing)));
        Arc::new(Api { bounds, hub, net, model, readers, places, waiting: AtomicUsize::new(0) })
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
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.bounds.waiting {
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
    if texts as usize > api.bounds.writing {
        return Err(invalid("n", &format!("at most {} texts are written for one request", api.bounds.writing)));
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
            let text = Text { choice, model: model.clone(), prompt: prompt.clone(), begin, stops: plan.stops.clone() };
            tokio::spawn(write(session, text, (sender.clone(), api.bounds.unread), place.clone()));
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
                None if !answer.is_whole() => (reply::event(&unread().body()), Progress::End),
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

/// Who reads too slowly has missed what came.
fn unread() -> Refusal {
    let message = "this text was not read as fast as it was written, and was given up: ask again, and read on";
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "", "too_slow", message)
}

/// Where a stream of events is.
enum Progress {
    Begin,
    Pieces,
    Done,
    End,
}

/// One text of a request.
struct Text {
    choice: u32,
    model: Arc<Model>,
    prompt: Vec<u32>,
    /// What it begins with.
    begin: String,
    stops: Vec<String>,
}

/// Writes one text, until it ends, or nobody has read it for so long.
async fn write(
    mut session: Session,
    text: Text,
    (out, unread): (mpsc::Sender<Result<Piece, Failure>>, Duration),
    place: Arc<Place>,
) {
    let mut writing = Writing::new(&text.model, &text.prompt, &text.stops);
    let piece = |text_of: String| Piece { choice: text.choice, text: text_of, tokens: Vec::new(), finish: None };
    if !text.begin.is_empty() && out.send(Ok(piece(text.begin.clone()))).await.is_err() {
        return;
    }
    loop {
        // Who has gone away is noticed before the next token.
        let event = tokio::select! {
            event = session.next() => event,
            () = out.closed() => return,
        };
        let next = match event {
            Some(Event::Token(token, logprob)) => {
                place.grant.used(1);
                let (shown, stopped) = writing.push(token);
                let finish = stopped.then_some(Finish::Stop);
                Ok(Piece { tokens: vec![(token, logprob)], finish, ..piece(shown) })
            }
            Some(Event::Finished(finish)) => {
                let (rest, stopped) = writing.finish();
                Ok(Piece { finish: Some(if stopped { Finish::Stop } else { finish }), ..piece(rest) })
            }
            Some(Event::Failed(why)) => Err(why),
            None => return,
        };
        let last = next.as_ref().map_or(true, |piece| piece.finish.is_some());
        if out.send_timeout(next, unread).await.is_err() || last {
            return;
        }
    }
}
