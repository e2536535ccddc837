//! Bodies of requests: read whole, within a limit, as JSON.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Bytes of a refused body that are read past.
const DISCARDED: usize = 64 << 20;

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads a body as JSON, whatever its content type says.
///
/// # Errors
/// The body is over the limit, cut off, not UTF-8, or not JSON of this type. JSON may be nested up
/// to 128 deep.
pub(crate) async fn read_json<T: DeserializeOwned>(
    request: Request,
    limit: usize,
) -> Result<T, ApiError> {
    let bytes = read(request, limit).await?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| ApiError::NotUtf8 { at: error.valid_up_to() })?;
    serde_json::from_str(text).map_err(|source| ApiError::Body { source })
}

async fn read(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let claimed = request.headers().get(CONTENT_LENGTH);
    let claimed = claimed.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if claimed.is_some_and(|claimed| claimed > limit as u64) {
        discard(request.into_body()).await;
        return Err(ApiError::TooLarge { allowed: limit });
    }
    Bytes::from_request(request, &()).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return ApiError::TooLarge { allowed: limit };
        }
        ApiError::Incomplete
    })
}

/// Reads past a body that is refused, so that a client which sends before it listens comes to hear
/// the answer, and is not cut off: up to a size and a time.
async fn discard(body: Body) {
    let mut chunks = body.into_data_stream();
    let mut left = DISCARDED;
    let all = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Whoever is slower than that gets the answer now, and may lose it.
    let _ = tokio::time::timeout(PATIENCE, all).await;
}
