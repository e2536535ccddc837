//! `POST /v1/embeddings`: texts in the space that the memory uses.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use cart_engine::runtime::{EmbedError, Embeddable, EmbeddingSink, Embeddings};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::app::AppState;
use crate::error::ApiError;
use crate::keys::KeyName;

/// Most texts of a request, as OpenAI has it.
const MOST_TEXTS: usize = 2048;

/// The body of `POST /v1/embeddings`.
#[derive(Debug, Deserialize)]
pub(crate) struct EmbeddingRequest {
    input: Option<Input>,
    #[serde(default)]
    encoding_format: EncodingFormat,
    dimensions: Option<u64>,
    model: Option<String>,
    #[expect(dead_code, reason = "clients send it, and it decides nothing")]
    user: Option<String>,
}

/// A text or several, as text or as token ids.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    /// As an array of numbers.
    #[default]
    Float,
    /// As the base64 of its little-endian f32.
    Base64,
}

impl EmbeddingRequest {
    fn texts(&self) -> Result<Vec<Embeddable>, ApiError> {
        let hint = "a string, an array of strings, or token ids";
        let input = self.input.as_ref().ok_or(ApiError::Missing { param: "input", hint })?;
        let texts: Vec<Embeddable> = match input {
            Input::Text(text) => vec![Embeddable::Text(text.clone())],
            Input::Tokens(tokens) if tokens.is_empty() => Vec::new(),
            Input::Tokens(tokens) => vec![Embeddable::Tokens(tokens.clone())],
            Input::Texts(texts) => texts.iter().cloned().map(Embeddable::Text).collect(),
            Input::TokenLists(lists) => lists.iter().cloned().map(Embeddable::Tokens).collect(),
        };
        if (1..=MOST_TEXTS).contains(&texts.len()) {
            return Ok(texts);
        }
        let found = format!("an array of {} texts", texts.len());
        Err(ApiError::Invalid { param: "input", found, allowed: "1 to 2048 texts" })
    }

    /// Vectors can't be cut: what a number of one says depends on the others.
    fn check_dimensions(&self, dimensions: u64) -> Result<(), ApiError> {
        match self.dimensions {
            Some(found) if found != dimensions => {
                Err(ApiError::Dimensions { found, allowed: dimensions })
            }
            _ => Ok(()),
        }
    }
}

/// Answers a request.
///
/// # Errors
/// It asks for what there is not, a text can't be read, or the runtime refuses.
pub(crate) async fn embed(
    state: AppState,
    holder: Option<KeyName>,
    request: EmbeddingRequest,
) -> Result<Response, ApiError> {
    let texts = request.texts()?;
    let (sender, outcome) = oneshot::channel();
    let model = state.model(request.model.as_deref()).await?;
    // Tokenizing takes a while, and so does the first look at the space.
    let submitted = tokio::task::spawn_blocking(move || {
        let runtime = model.runtime();
        let active = runtime.active()?;
        let dimensions = active.agent().model().spec().hidden_size;
        request.check_dimensions(dimensions)?;
        runtime.embed(&texts, Box::new(Sink(sender)))?;
        Ok::<_, ApiError>(request.encoding_format)
    });
    let format = submitted.await.map_err(|_| ApiError::TaskLost)??;
    let embeddings = outcome.await.map_err(|_| ApiError::TaskLost)??;
    state.metrics().prompt(embeddings.tokens);
    state.metrics().used(holder.as_ref(), 0, embeddings.tokens as u64, 0);
    Ok(Json(answer(&embeddings, format)).into_response())
}

fn answer(embeddings: &Embeddings, format: EncodingFormat) -> Value {
    let written = |vector: &[f32]| match format {
        EncodingFormat::Float => json!(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            json!(base64(&bytes))
        }
    };
    let data: Vec<Value> = embeddings
        .vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            json!({ "object": "embedding", "index": index, "embedding": written(vector) })
        })
        .collect();
    let resident = &embeddings.resident;
    json!({
        "object": "list",
        "data": data,
        "model": resident.name(),
        "usage": { "prompt_tokens": embeddings.tokens, "total_tokens": embeddings.tokens },
        "cart": {
            "generation": resident.generation(),
            "manifest": resident.manifest(),
            "space": resident.agent().space(),
        },
    })
}

/// The standard alphabet, padded (RFC 4648 §4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..4 {
            let sextet = bits >> (18 - 6 * place) & 63;
            let written = if place > three.len() { b'=' } else { ALPHABET[sextet as usize] };
            text.push(char::from(written));
        }
    }
    text
}

/// The engine's end of the channel.
struct Sink(oneshot::Sender<Result<Embeddings, EmbedError>>);

impl EmbeddingSink for Sink {
    fn deliver(self: Box<Self>, outcome: Result<Embeddings, EmbedError>) {
        // A client that is gone wants none.
        let _ = self.0.send(outcome);
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        // RFC 4648 §10.
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (text, written) in cases {
            assert_eq!(base64(text.as_bytes()), written);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn each_form_of_input_is_read_and_none_or_too_many_are_refused() {
        let texts = |input: Value| {
            serde_json::from_value::<EmbeddingRequest>(json!({ "input": input })).unwrap().texts()
        };
        let text = |text: &str| Embeddable::Text(text.to_owned());
        assert_eq!(texts(json!("a")).unwrap(), [text("a")]);
        assert_eq!(texts(json!(["a", "b"])).unwrap(), [text("a"), text("b")]);
        assert_eq!(texts(json!([1, 2])).unwrap(), [Embeddable::Tokens(vec![1, 2])]);
        let lists = [Embeddable::Tokens(vec![1]), Embeddable::Tokens(vec![2, 3])];
        assert_eq!(texts(json!([[1], [2, 3]])).unwrap(), lists);
        for refused in [json!([]), json!(vec!["a"; MOST_TEXTS + 1])] {
            assert_eq!(texts(refused).unwrap_err().body()["error"]["param"], "input");
        }
    }

    #[test]
    fn other_dimensions_than_the_models_are_refused_and_said() {
        let asked = |dimensions: u64| {
            let body = json!({ "input": "a", "dimensions": dimensions });
            serde_json::from_value::<EmbeddingRequest>(body).unwrap().check_dimensions(128)
        };
        assert!(asked(128).is_ok());
        let said = asked(64).unwrap_err().body()["error"].clone();
        assert!(said["param"] == "dimensions" && said.to_string().contains("128"), "{said}");
    }
}
