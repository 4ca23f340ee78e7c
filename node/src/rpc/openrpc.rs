//! The OpenRPC document that `rpc.discover` serves, and the page of the same for people, both made from the table of methods, the types'
//! schemas and the list of errors. `docs/openrpc.json` and `docs/rpc.md` are what this makes.

use super::{
    MAX_BATCH, MAX_CONNECTIONS, MAX_REQUEST_BYTES, MAX_SUBSCRIPTIONS,
    errors::{Code, SERVER},
    methods::{Describe, Method, Part, all},
};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Where a type's schema is in the document.
const TYPES: &str = "/components/schemas";

/// Makes the schemas of what methods take, and of what they give: an optional field may be left out of the one, and is null in the other.
struct Schemas {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

impl Schemas {
    fn new() -> Schemas {
        let settings = || {
            SchemaSettings::draft07().with(|settings| {
                settings.definitions_path = TYPES.into();
                settings.meta_schema = None;
            })
        };
        Schemas {
            taken: settings().for_deserialize().into_generator(),
            given: settings().for_serialize().into_generator(),
        }
    }

    fn given(&mut self, describe: Describe) -> Value {
        describe(&mut self.given).to_value()
    }

    /// The parameters of a method: those that must be there first.
    fn params(&mut self, describe: Describe) -> Vec<Value> {
        let schema = describe(&mut self.taken).to_value();
        let required = |name: &str| {
            let all = schema["required"].as_array();
            all.is_some_and(|all| all.iter().any(|other| other == name))
        };
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        let param = |(name, schema): (String, Value)| {
            let description = schema.get("description").cloned().unwrap_or_default();
            json!({"name": name, "description": description, "required": required(&name), "schema": schema})
        };
        let mut params: Vec<Value> = properties.into_iter().map(param).collect();
        params.sort_by_key(|param| param["required"] != true);
        params
    }

    /// All types that were named so far.
    fn types(&mut self) -> Map<String, Value> {
        let mut types = self.taken.take_definitions(true);
        types.extend(self.given.take_definitions(true));
        types.sort_keys();
        types
    }
}

fn method(schemas: &mut Schemas, method: &Method) -> Value {
    let errors = method.errors.iter().map(|code| json!({"$ref": format!("#/components/errors/{}", code.name())}));
    let result = match method.told {
        Some(_) => json!({"type": "integer", "description": "The subscription's id, which its notifications carry."}),
        None => schemas.given(method.result),
    };
    let mut all = json!({
        "name": method.name,
        "summary": method.about,
        "tags": [{"name": tag(method.part)}],
        "paramStructure": "by-name",
        "params": schemas.params(method.params),
        "result": {"name": "result", "schema": result},
        "errors": errors.collect::<Vec<_>>(),
    });
    if let Some(told) = &method.told {
        all["x-subscription"] = json!({
            "notification": told.notification,
            "unsubscribe": told.unsubscribe,
            "schema": schemas.given(told.item),
        });
    }
    all
}

fn tag(part: Part) -> &'static str {
    match part {
        Part::Everybody => "ledger and node",
        Part::Light => "light clients",
        Part::Operator => "operator",
        Part::Subscription => "subscriptions",
    }
}

/// The document.
pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let methods: Vec<Value> = all().iter().map(|one| method(&mut schemas, one)).collect();
    let error = |code: &Code| {
        let data = json!({"code": code.name()});
        (code.name().to_string(), json!({"code": code.number(), "message": code.meaning(), "data": data}))
    };
    let errors: Map<String, Value> = Code::ALL.iter().map(error).collect();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "ailo-node",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "JSON-RPC 2.0 of an ailo node, over HTTP POST and WebSocket at /rpc. Parameters are named. Every answer carries the \
                            height and the state root that it was read at. Each error carries its name as data.code. Methods with the tag \
                            'subscriptions' are called over WebSocket; x-subscription says what they tell.",
            "license": {"name": "Apache-2.0"},
        },
        "servers": [{"name": "a node on this machine", "url": "http://127.0.0.1:8645/rpc"}],
        "methods": methods,
        "components": {"schemas": schemas.types(), "errors": errors},
    })
}

/// What a reference names.
fn named(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

/// A type in a few words; one that the page explains is a link.
fn in_words(schema: &Value) -> String {
    if let Some(name) = named(schema) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().map(|value| format!("`{value}`"));
        return values.collect::<Vec<_>>().join(" or ");
    }
    let alternatives = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| schema[key].as_array());
    if let Some(alternatives) = alternatives {
        return alternatives.iter().map(in_words).collect::<Vec<_>>().join(" or ");
    }
    let one = |name: &str| match name {
        "array" => match &schema["items"] {
            Value::Array(parts) => format!("[{}]", parts.iter().map(in_words).collect::<Vec<_>>().join(", ")),
            item => format!("list of {}", in_words(item)),
        },
        "object" => match &schema["additionalProperties"] {
            item @ Value::Object(_) => format!("map to {}", in_words(item)),
            _ => "object".into(),
        },
        other => other.to_string(),
    };
    match &schema["type"] {
        Value::String(name) => one(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(one).collect::<Vec<_>>().join(" or "),
        _ => "anything".into(),
    }
}

/// A description on one line of a table.
fn line(text: &Value) -> String {
    text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The rows of an object's fields.
fn fields(schema: &Value) -> String {
    let rows = schema["properties"].as_object().into_iter().flatten();
    let row = |(name, field): (&String, &Value)| {
        format!("| `{name}` | {} | {} |\n", in_words(field), line(&field["description"]))
    };
    rows.map(row).collect()
}

fn type_section(name: &str, schema: &Value) -> String {
    let mut text = format!("### {name}\n\n");
    let about = line(&schema["description"]);
    if !about.is_empty() {
        text += &format!("{about}\n\n");
    }
    let table = "| field | type | means |\n| --- | --- | --- |\n";
    if schema["properties"].is_object() {
        text += &format!("{table}{}\n", fields(schema));
    } else if let Some(kinds) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        text += "One of these:\n\n";
        for kind in kinds {
            let about = line(&kind["description"]);
            let parts: Vec<String> = match kind["properties"].as_object() {
                Some(parts) => parts.iter().map(|(name, field)| format!("`{name}`: {}", in_words(field))).collect(),
                None => vec![in_words(kind)],
            };
            // A kind may have the fields of another type beside its own.
            let beside = named(kind).filter(|_| kind["properties"].is_object()).map(|_| in_words(kind));
            let all = parts.into_iter().chain(beside).collect::<Vec<_>>().join(", ");
            text += &if about.is_empty() { format!("- {all}\n") } else { format!("- {all}. {about}\n") };
        }
        text.push('\n');
    } else {
        let pattern = schema["pattern"].as_str().map(|pattern| format!(", `{pattern}`")).unwrap_or_default();
        text += &format!("{}{pattern}\n\n", in_words(schema));
    }
    text
}

fn method_section(method: &Value) -> String {
    let mut text = format!("### {}\n\n{}\n\n", method["name"].as_str().unwrap_or_default(), line(&method["summary"]));
    let params = method["params"].as_array().map_or(&[][..], Vec::as_slice);
    if !params.is_empty() {
        text += "| parameter | type | means |\n| --- | --- | --- |\n";
        for param in params {
            let must = if param["required"] == true { "" } else { " (optional)" };
            let name = param["name"].as_str().unwrap_or_default();
            // Writing into a text never fails.
            let _ =
                writeln!(text, "| `{name}`{must} | {} | {} |", in_words(&param["schema"]), line(&param["description"]));
        }
        text.push('\n');
    }
    let errors = method["errors"].as_array().into_iter().flatten().filter_map(named);
    let errors: Vec<String> = errors.map(|name| format!("`{name}`")).collect();
    let told = &method["x-subscription"];
    let _ = match told["notification"].as_str() {
        Some(notification) => writeln!(
            text,
            "Tells `{notification}` with {}. `{}` ends it, with the subscription's id.",
            in_words(&told["schema"]),
            told["unsubscribe"].as_str().unwrap_or_default(),
        ),
        None => writeln!(text, "Answers {}.", in_words(&method["result"]["schema"])),
    };
    let _ = writeln!(text, "Errors: {}.\n", errors.join(", "));
    text
}

/// The page for people.
pub fn page() -> String {
    let document = document();
    let mut text = format!(
        "# JSON-RPC\n\n\
        This page is made from the program: `AILO_WRITE_DOCS=1 cargo test --workspace --test docs` writes it anew, and `docs/openrpc.json` with it.\n\n\
        A node answers JSON-RPC 2.0 at `/rpc` of its HTTP address, `http://127.0.0.1:8645/rpc` unless told otherwise: by POST, and over WebSocket, \
        where subscriptions are as well. `rpc.discover` answers this reference as an OpenRPC document, from which clients can be made: \
        `examples/explorer.py` and `examples/explorer.ts` know nothing else.\n\n\
        - Parameters are named, and one that a method does not know is refused.\n\
        - Amounts are decimal strings in ALC, hashes and keys hexadecimal, times milliseconds since 1970, losses nats a token.\n\
        - Every answer carries `height` and `state_root`: the newest block that it was read at, and the root of the ledger's state after it.\n\
        - What is long comes in pages: pass `next` of one as `cursor` of the next one.\n\
        - A batch has {MAX_BATCH} requests at most and comes by POST, a request {} KiB, a connection {MAX_SUBSCRIPTIONS} subscriptions; a node serves \
        {MAX_CONNECTIONS} connections at a time, and closes those that ask nothing for half a minute, take as long over one request (408) or over the next byte of an answer, or, as \
        WebSockets, answer no ping. From a WebSocket that leaves answers unread it reads no more.\n\
        - A node that has too much to do says `UNAVAILABLE` and does nothing: ask again in a moment.\n\
        - Methods of the operator need the token that lies in `operator.token` of the node's data folder (mode 0600, another one at each start), as the \
        header `Authorization: Bearer TOKEN` of the request, or of the WebSocket's upgrade. It travels as it is: elsewhere than on \
        loopback use a tunnel.\n\n\
        ## Errors\n\n\
        Each error of a method carries its name as `data.code`. What the ledger refuses has the number of `REFUSED` and the ledger's own name, \
        which `docs/ledger.md` lists.\n\n| number | name | means |\n| --- | --- | --- |\n",
        MAX_REQUEST_BYTES >> 10,
    );
    for code in Code::ALL {
        // Writing into a text never fails.
        let _ = writeln!(text, "| {} | `{}` | {} |", code.number(), code.name(), code.meaning());
    }
    text += "\nThe server itself has these, without a name:\n\n| number | means |\n| --- | --- |\n";
    for (number, meaning) in SERVER {
        let _ = writeln!(text, "| {number} | {meaning} |");
    }
    text.push('\n');
    for (part, heading) in [
        (Part::Everybody, "Ledger and node"),
        (Part::Light, "Light clients"),
        (Part::Operator, "The operator's methods"),
        (Part::Subscription, "Subscriptions"),
    ] {
        let of_it = |method: &&Value| method["tags"][0]["name"] == tag(part);
        let methods = document["methods"].as_array().into_iter().flatten().filter(of_it);
        text += &format!("## {heading}\n\n");
        text.extend(methods.map(method_section));
    }
    text += "## Types\n\n";
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        text += &type_section(name, schema);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}
