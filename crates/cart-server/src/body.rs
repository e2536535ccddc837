//! Bodies of requests: read whole, within a limit, as JSON.

use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

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
        return Err(ApiError::TooLarge { allowed: limit });
    }
    Bytes::from_request(request, &()).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return ApiError::TooLarge { allowed: limit };
        }
        ApiError::Incomplete
    })
}
