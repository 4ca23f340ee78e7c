//! The web page at `/`: dashboard, explorer, wallet view and chat, written by the node itself. Everything can be read without JavaScript; what
//! there is of it shows news as they come and lets a person chat.
//!
//! | path | page |
//! | --- | --- |
//! | `/` | `dashboard`: what this node does |
//! | `/explorer`, `/search`, `/block/`, `/tx/`, `/address/`, `/node/`, `/round/`, ... | `explorer`: what the ledger holds |
//! | `/wallet` | `wallet`: receive; what is to be signed to send, take back, report; nothing here signs |
//! | `/chat` | `chat`: a conversation with the model |
//! | `/operator` | `operator`: training, its power, the log; for who has the operator's token |
//! | `/live` | a server-sent event for each new head of the ledger: the page that is shown is fetched anew |
//!
//! Pages hold no secrets but the operator's, which need the token. What a person typed comes back escaped (`maud`), and a browser is told to run scripts of this page alone.

mod charts;
mod chat;
mod dashboard;
mod explorer;
mod operator;
pub mod say;
mod table;
mod wallet;

use crate::{
    inference::api::access::Access,
    rpc::{
        Context,
        errors::{Code, Failure},
    },
    service::chain::Unreadable,
};
use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{
        Html, IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::get,
};
use futures::Stream;
use maud::{DOCTYPE, Markup, html};
use serde_json::json;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Scripts and styles of this page alone; nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// News are told at most so often.
const NEWS: Duration = Duration::from_secs(2);
/// Bytes of what the web framework says of a request, at most.
const MAX_SAID: usize = 4096;
/// Seconds after which what can't be read now may be asked for again.
const AGAIN: &str = "2";
/// Links of the head of each page.
const PLACES: [(&str, &str); 5] = [
    ("/", "Dashboard"),
    ("/explorer", "Explorer"),
    ("/wallet", "Wallet"),
    ("/chat", "Chat"),
    ("/operator", "Operator"),
];

/// What the pages are made of.
pub struct Site {
    /// What JSON-RPC answers from, too.
    pub context: Arc<Context>,
    stop: watch::Receiver<bool>,
}

/// What a page can't show, and why.
#[derive(Clone)]
struct Missing(&'static str, String);

impl Missing {
    /// An answer of this status; [`said`] writes it.
    fn with(self, status: StatusCode) -> Response {
        (status, Extension(self)).into_response()
    }
}

impl IntoResponse for Missing {
    fn into_response(self) -> Response {
        self.with(StatusCode::NOT_FOUND)
    }
}

/// Why a page can't be made, with the status that says whether it is there.
struct Failed(StatusCode, Missing);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Failed(status, missing) = self;
        missing.with(status)
    }
}

impl From<Missing> for Failed {
    fn from(missing: Missing) -> Failed {
        Failed(StatusCode::NOT_FOUND, missing)
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        let status = match failure.is(Code::Unavailable) {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::NOT_FOUND,
        };
        let mut why = failure.why;
        why.get_mut(..1).into_iter().for_each(str::make_ascii_uppercase);
        Failed(status, Missing("This can't be shown", why + "."))
    }
}

impl From<Unreadable> for Failed {
    fn from(e: Unreadable) -> Failed {
        Failure::from(e).into()
    }
}

impl Site {
    /// Pages about this node.
    pub fn new(context: Arc<Context>, stop: watch::Receiver<bool>) -> Site {
        Site { context, stop }
    }

    /// The routes of all pages, under the names that `access` knows.
    pub fn router(self, access: Arc<Access>) -> Router {
        let asset = |kind: &'static str, text: &'static str| {
            get(move || async move { ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=3600")], text) })
        };
        let site = Arc::new(self);
        Router::new()
            .route("/", get(dashboard::page))
            .route("/chat", get(chat::page))
            .route("/live", get(live))
            .merge(explorer::routes())
            .merge(wallet::routes())
            .merge(operator::routes(&site))
            .route("/style.css", asset("text/css; charset=utf-8", include_str!("assets/style.css")))
            .route("/live.js", asset("text/javascript; charset=utf-8", include_str!("assets/live.js")))
            .route("/chat.js", asset("text/javascript; charset=utf-8", include_str!("assets/chat.js")))
            .route("/icon.svg", asset("image/svg+xml", include_str!("assets/icon.svg")))
            .fallback(|| async { Missing("There is no such page", "Look for it with the search box above.".into()) })
            .method_not_allowed_fallback(|| async {
                let why = "Pages are read with GET; what stands in their forms is sent with POST.".into();
                Missing("This can't be asked so", why).with(StatusCode::METHOD_NOT_ALLOWED)
            })
            .layer(middleware::from_fn_with_state(site.clone(), said))
            .layer(middleware::from_fn_with_state(access, by_our_names))
            .with_state(site)
    }

    /// A whole page. `here` is the place of the head that it belongs to; a page that is `live` is fetched anew at each block.
    fn page(&self, here: &str, title: &str, live: bool, main: &Markup) -> Response {
        let head = self.context.chain.head();
        let name = &self.context.genesis.name;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · ailo" }
                    link rel="icon" href="/icon.svg" type="image/svg+xml";
                    link rel="stylesheet" href="/style.css";
                    script src="/live.js" defer {}
                }
                body {
                    a.skip href="#main" { "Skip to content" }
                    header {
                        a.brand href="/" { "ailo" }
                        nav aria-label="Places" {
                            @for (path, place) in PLACES {
                                a href=(path) aria-current=[(path == here).then_some("page")] { (place) }
                            }
                        }
                        form.search role="search" action="/search" {
                            input type="search" name="q" required aria-label="Search the ledger"
                                placeholder="Transaction, address, @name, node, height, round 7";
                            button { "Search" }
                        }
                    }
                    main id="main" data-live=[live.then_some("yes")] { (main) }
                    footer {
                        span { "Network " b { (name) } }
                        span { "Height " a href={ "/block/" (head.state.height()) } { (head.state.height()) } }
                        span { "ailo-node " (env!("CARGO_PKG_VERSION")) }
                    }
                }
            }
        };
        let headers = [
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        ];
        (headers, page.into_string()).into_response()
    }

    /// Does what reads the ledger's index, or computes a while, when its turn comes: JSON-RPC's requests and pages share the turns.
    async fn work<T: Send + 'static>(
        self: Arc<Site>,
        work: impl FnOnce(&Site) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Failed> {
        let site = self.clone();
        self.context.turns.ask(move || work(&site)).await?
    }

    /// A page, or why there is none.
    fn shown(&self, (here, title, live): (&str, &str, bool), made: Result<Markup, Failed>) -> Response {
        match made {
            Ok(main) => self.page(here, title, live, &main),
            Err(failed) => failed.into_response(),
        }
    }

    /// Makes a page when its turn comes.
    async fn made(
        self: Arc<Site>,
        place: (&str, &str, bool),
        make: impl FnOnce(&Site) -> Result<Markup, Failed> + Send + 'static,
    ) -> Response {
        let made = self.clone().work(make).await;
        self.shown(place, made)
    }
}

/// Whether a page is asked for.
fn is_for_a_page(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("text/html");
    accepts.contains("text/html") || accepts.contains("text/*")
}

/// What is wrong as problem details (RFC 9457).
fn problem(status: StatusCode, Missing(title, why): Missing) -> Response {
    let problem = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": why });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], problem.to_string()).into_response()
}

/// Lets requests through that are for this machine by a name that it has. Others learn nothing of the node: what they get has no frame.
async fn by_our_names(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    if access.is_for_us(request.headers()) {
        return next.run(request).await;
    }
    let title = "This is for programs on this machine";
    let why = "Ask for it as localhost or 127.0.0.1, or let it be called by other names with --allow-host.";
    if !is_for_a_page(request.headers()) {
        return problem(StatusCode::FORBIDDEN, Missing(title, why.into()));
    }
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (title) } }
            body { h1 { (title) } p { (why) } }
        }
    };
    (StatusCode::FORBIDDEN, Html(page.into_string())).into_response()
}

/// Writes what is wrong with a request: as a page, or as problem details for who asks for no page.
async fn said(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let page = is_for_a_page(request.headers());
    let mut response = next.run(request).await;
    let status = response.status();
    let missing = response.extensions_mut().remove::<Missing>();
    // What the web framework refuses before a page is asked is a line of text.
    let plain =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    let missing = match missing {
        Some(missing) => missing,
        None if status.is_client_error() && plain => {
            let body = axum::body::to_bytes(response.into_body(), MAX_SAID).await.unwrap_or_default();
            Missing("This can't be asked so", format!("{}.", String::from_utf8_lossy(&body).trim_end_matches('.')))
        }
        None => return response,
    };
    let mut response = if page {
        let Missing(title, why) = missing;
        let main = html! {
            h1 { (title) }
            p { (why) }
        };
        (status, site.page("", title, false, &main)).into_response()
    } else {
        problem(status, missing)
    };
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(AGAIN));
    }
    response
}

/// Tells of each new head of the ledger.
async fn live(State(site): State<Arc<Site>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut heads = site.context.chain.heads();
    heads.mark_unchanged();
    let news = futures::stream::unfold((heads, site.stop.clone()), |(mut heads, mut stop)| async move {
        let next = async {
            heads.changed().await.ok()?;
            tokio::time::sleep(NEWS).await;
            Some(heads.borrow_and_update().state.height())
        };
        let height = tokio::select! {
            height = next => height?,
            _ = stop.changed() => return None,
        };
        Some((Ok(Event::default().event("head").data(height.to_string())), (heads, stop)))
    });
    Sse::new(news).keep_alive(KeepAlive::default())
}

#[cfg(test)]
mod tests;
