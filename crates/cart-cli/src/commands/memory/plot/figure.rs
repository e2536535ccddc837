//! Figures as files: which there are, in which form, on one sheet or alone.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use thiserror::Error;

use super::{Material, charts};
use crate::failure::Failure;

/// Pixels of one figure.
const SIZE: (u32, u32) = (800, 480);
/// Figures side by side on a sheet.
const ABREAST: usize = 2;
/// Latin and Greek letters of DejaVu Sans; assets/DejaVuSans-LICENSE.txt.
const FONT: &[u8] = include_bytes!("../../../../assets/DejaVuSans-latin-greek.ttf");

/// A drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Slots,
    Survival,
    Energy,
    Goal,
    Cosines,
    Graph,
}

impl Figure {
    pub(super) const ALL: [Self; 6] =
        [Self::Slots, Self::Survival, Self::Energy, Self::Goal, Self::Cosines, Self::Graph];

    /// Its name in reports and of its file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Survival => "survival",
            Self::Energy => "energy",
            Self::Goal => "goal",
            Self::Cosines => "cosines",
            Self::Graph => "graph",
        }
    }
}

/// How a drawing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Svg,
    Png,
}

impl Format {
    pub(super) const ALL: [Self; 2] = [Self::Svg, Self::Png];

    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }

    /// The form of a file by its ending; none of a folder, which has none.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, Failure> {
        let Some(ending) = path.extension().filter(|_| !path.is_dir()) else { return Ok(None) };
        let known =
            Self::ALL.into_iter().find(|format| ending.eq_ignore_ascii_case(format.ending()));
        known.map(Some).ok_or_else(|| {
            let ending = ending.to_string_lossy();
            let message =
                format!("-o ends in .{ending}; allowed: .svg, .png, or a folder without an ending");
            Failure::arguments(message)
        })
    }
}

/// A drawing was not made.
#[derive(Debug, Error)]
#[error("{} can't be drawn: {source}", path.display())]
pub(super) struct DrawError {
    path: PathBuf,
    source: Box<dyn Error + Send + Sync>,
}

/// Draws figures on one sheet; gives the bytes of the file.
pub(super) fn draw(
    path: &Path,
    format: Format,
    material: &Material,
    figures: &[Figure],
) -> Result<u64, DrawError> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let registered = register_font("sans-serif", FontStyle::Normal, FONT);
        assert!(registered.is_ok(), "the font in the binary is one");
    });
    let failed = |source: Box<dyn Error + Send + Sync>| DrawError { path: path.to_owned(), source };
    let across = figures.len().min(ABREAST);
    let down = figures.len().div_ceil(ABREAST);
    let size = (SIZE.0 * across as u32, SIZE.1 * down as u32);
    let drawn = match format {
        Format::Svg => sheet(
            &SVGBackend::new(path, size).into_drawing_area(),
            (down, across),
            material,
            figures,
        )
        .map_err(|error| error.to_string()),
        Format::Png => sheet(
            &BitMapBackend::new(path, size).into_drawing_area(),
            (down, across),
            material,
            figures,
        )
        .map_err(|error| error.to_string()),
    };
    drawn.map_err(|error| failed(error.into()))?;
    let written = std::fs::metadata(path).map_err(|error| failed(error.into()))?;
    Ok(written.len())
}

fn sheet<DB: DrawingBackend>(
    root: &DrawingArea<DB, Shift>,
    places: (usize, usize),
    material: &Material,
    figures: &[Figure],
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    root.fill(&WHITE)?;
    for (area, &figure) in root.split_evenly(places).iter().zip(figures) {
        charts::draw(area, figure, material)?;
    }
    root.present()
}
