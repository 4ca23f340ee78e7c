//! The chat page: a form that `chat.js` turns into a conversation over `/v1/chat/completions`.

use super::{Site, explorer};
use axum::{extract::State, response::Response};
use maud::html;
use std::sync::Arc;

pub(super) async fn page(State(site): State<Arc<Site>>) -> Response {
    let main = html! {
        h1 { "Chat" }
        (explorer::prompt_note())
        noscript { p.notes { "A conversation needs JavaScript here. Without it: " code { "ailo-node chat" } "." } }
        div #talk role="log" aria-live="polite" aria-label="Conversation" {}
        form #ask hidden {
            label for="said" { "Your message" }
            textarea #said name="said" rows="3" required {}
            div.row {
                label { "Model " select #model name="model" {} }
                label { "Temperature " input #temperature type="number" min="0" max="2" step="0.1" value="0.7"; }
                label { "At most " input #tokens type="number" min="1" max="4096" placeholder="as fit"; " tokens" }
                button #send { "Send" }
                button #stop type="button" hidden { "Stop" }
                button #anew type="button" { "Begin anew" }
            }
            details {
                summary { "API key" }
                p { "Needed where this node asks for one. It stays in this tab." }
                input #key type="password" autocomplete="off" aria-label="API key";
            }
        }
        p #speed role="status" {}
        script src="/chat.js" defer {}
    };
    site.page("/chat", "Chat", false, &main)
}
