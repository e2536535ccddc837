//! Drawings as files: SVG and PNG, several figures on one sheet, and what charts are made of.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Once;

use plotters::chart::{ChartBuilder, ChartContext, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use thiserror::Error;

use crate::failure::Failure;

/// Pixels of one figure.
const SIZE: (u32, u32) = (800, 480);
/// Figures side by side on a sheet.
const ABREAST: usize = 2;
/// Latin and Greek letters of DejaVu Sans; assets/DejaVuSans-LICENSE.txt.
const FONT: &[u8] = include_bytes!("../assets/DejaVuSans-latin-greek.ttf");

/// Of lines that are no data.
pub(crate) const GREY: RGBColor = RGBColor(110, 110, 110);

pub(crate) type Area<DB> = DrawingArea<DB, Shift>;
pub(crate) type Done<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;
pub(crate) type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// How a drawing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Svg,
    Png,
}

impl Format {
    pub(crate) const ALL: [Self; 2] = [Self::Svg, Self::Png];

    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }

    /// The form of a file by its ending; none of a folder, which has none.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>, Failure> {
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
pub(crate) struct DrawError {
    path: PathBuf,
    source: Box<dyn Error + Send + Sync>,
}

/// Figures that go on a sheet.
pub(crate) trait Figures {
    /// How many.
    fn count(&self) -> usize;

    /// Draws one of them.
    fn draw<DB: DrawingBackend>(&self, index: usize, area: &Area<DB>) -> Done<DB>;
}

/// Draws figures on one sheet; gives the bytes of the file.
pub(crate) fn write(path: &Path, format: Format, figures: &impl Figures) -> Result<u64, DrawError> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let registered = register_font("sans-serif", FontStyle::Normal, FONT);
        assert!(registered.is_ok(), "the font in the binary is one");
    });
    let failed = |source: Box<dyn Error + Send + Sync>| DrawError { path: path.to_owned(), source };
    let across = figures.count().min(ABREAST);
    let down = figures.count().div_ceil(ABREAST);
    let size = (SIZE.0 * across as u32, SIZE.1 * down as u32);
    let drawn = match format {
        Format::Svg => {
            let root = SVGBackend::new(path, size).into_drawing_area();
            sheet(&root, (down, across), figures).map_err(|error| error.to_string())
        }
        Format::Png => {
            let root = BitMapBackend::new(path, size).into_drawing_area();
            sheet(&root, (down, across), figures).map_err(|error| error.to_string())
        }
    };
    drawn.map_err(|error| failed(error.into()))?;
    let written = std::fs::metadata(path).map_err(|error| failed(error.into()))?;
    Ok(written.len())
}

fn sheet<DB: DrawingBackend>(
    root: &Area<DB>,
    places: (usize, usize),
    figures: &impl Figures,
) -> Done<DB> {
    root.fill(&WHITE)?;
    for (index, area) in root.split_evenly(places).iter().enumerate().take(figures.count()) {
        figures.draw(index, area)?;
    }
    root.present()
}

/// Axes with names and a title.
pub(crate) struct Axes<'t> {
    pub(crate) title: &'t str,
    /// Name, least and most.
    pub(crate) x: (&'t str, f64, f64),
    /// Name, least and most; without a name, places on it mean nothing and are not marked.
    pub(crate) y: (&'t str, f64, f64),
}

impl Axes<'_> {
    pub(crate) fn on<'a, DB: DrawingBackend>(
        &self,
        area: &'a Area<DB>,
    ) -> Result<Chart<'a, DB>, DrawingAreaErrorKind<DB::ErrorType>> {
        let ((x, x0, x1), (y, y0, y1)) = (self.x, self.y);
        // A range of no width can't be drawn.
        let x1 = if x1 > x0 { x1 } else { x0 + 1.0 };
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(x0..x1, y0..y1)?;
        let mut mesh = chart.configure_mesh();
        if y.is_empty() {
            mesh.disable_y_mesh();
        }
        mesh.light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.2))
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .x_label_formatter(&|at| number(*at, x1 - x0))
            .y_label_formatter(&|at| {
                if y.is_empty() { String::new() } else { number(*at, y1 - y0) }
            })
            .x_desc(x)
            .y_desc(y)
            .draw()?;
        Ok(chart)
    }
}

/// A place on an axis: whole where the axis is long.
pub(crate) fn number(at: f64, range: f64) -> String {
    if range > 5.0 { format!("{at:.0}") } else { format!("{at:.1}") }
}

/// A line with its name in the legend.
pub(crate) fn line<DB: DrawingBackend>(
    chart: &mut Chart<'_, DB>,
    name: &str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
) -> Done<DB> {
    if points.is_empty() {
        return Ok(());
    }
    chart
        .draw_series(std::iter::once(PathElement::new(points, colour.stroke_width(2))))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    Ok(())
}

/// A box with the names of lines.
pub(crate) fn legend<'a, DB: DrawingBackend + 'a>(
    chart: &mut Chart<'a, DB>,
    at: SeriesLabelPosition,
) -> Done<DB> {
    chart
        .configure_series_labels()
        .position(at)
        .background_style(WHITE.mix(0.85))
        .border_style(GREY.mix(0.5))
        .label_font(("sans-serif", 14))
        .draw()?;
    Ok(())
}
