//! Making a picture small. Whoever sent it may want the server to run out of memory, so its size is looked at before
//! anything is decoded.

use std::{
    io::{self, BufRead, Cursor, Seek},
    num::NonZeroU32,
};

use image::{
    DynamicImage, ImageDecoder as _, ImageError, ImageFormat, ImageReader, Limits, codecs::jpeg::JpegEncoder,
    imageops::FilterType, metadata::Orientation,
};

/// The sizes that are made, so that nobody can fill the disk by asking for every other. The specification's.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#thumbnails>
const SIZES: [(u32, u32); 5] = [(32, 32), (96, 96), (320, 240), (640, 480), (800, 600)];

/// No camera makes pictures with longer sides.
const LONGEST_SIDE: u32 = 20_000;

/// What decoding may need: 80 million pixels of three bytes each.
const MOST_MEMORY: u64 = 256 << 20;

const JPEG_QUALITY: u8 = 82;

/// How a picture gets into a smaller frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It fills the frame; what juts out is cut off.
    Crop,
    /// All of it is in the frame.
    Scale,
}

/// A picture that somebody wants. It may become larger than wanted, and is never larger than the picture itself.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// How wide, in pixels.
    pub width: u32,
    /// How high.
    pub height: u32,
    /// How it gets there.
    pub fit: Fit,
}

impl Wanted {
    /// The frame that is made instead: the smallest that is large enough, else the largest.
    pub(crate) fn frame(&self) -> (u32, u32) {
        let is_enough = |(width, height): &(u32, u32)| *width >= self.width && *height >= self.height;
        SIZES.into_iter().find(is_enough).unwrap_or(SIZES[SIZES.len() - 1])
    }
}

/// Why there is no small picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScaleError {
    #[error("it is no picture of a known kind")]
    NoPicture,
    #[error("it is too large")]
    TooLarge,
    #[error("it could not be read")]
    Io(#[from] io::Error),
}

impl From<ImageError> for ScaleError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::TooLarge,
            ImageError::IoError(error) if !is_of_content(&error) => Self::Io(error),
            _ => Self::NoPicture,
        }
    }
}

/// Decoders tell of a picture that ends early as of a fault of the disk.
fn is_of_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

/// A small picture.
pub(crate) struct Small {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_png: bool,
}

/// Reads a picture and makes it small. Takes its time: not for the runtime's threads.
pub(crate) fn scale(source: impl BufRead + Seek, wanted: &Wanted) -> Result<Small, ScaleError> {
    let picture = fit(decode(source)?, wanted);
    let is_png = picture.color().has_alpha();
    let mut bytes = Cursor::new(Vec::new());
    if is_png {
        DynamicImage::from(picture.into_rgba8()).write_to(&mut bytes, ImageFormat::Png)?;
    } else {
        picture.into_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY))?;
    }
    Ok(Small { bytes: bytes.into_inner(), is_png })
}

/// The picture, upright; of one that moves, the first frame. What it is, its bytes tell.
fn decode(source: impl BufRead + Seek) -> Result<DynamicImage, ScaleError> {
    let mut reader = ImageReader::new(source).with_guessed_format()?;
    if reader.format().is_none() {
        return Err(ScaleError::NoPicture);
    }
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(MOST_MEMORY);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    limits.check_dimensions(width, height)?;
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn fit(picture: DynamicImage, wanted: &Wanted) -> DynamicImage {
    let (width, height) = wanted.frame();
    match wanted.fit {
        Fit::Scale if picture.width() <= width && picture.height() <= height => picture,
        Fit::Scale => picture.resize(width, height, FilterType::Triangle),
        Fit::Crop => {
            let (width, height) = shrunk(&picture, width, height);
            picture.resize_to_fill(width, height, FilterType::Triangle)
        }
    }
}

/// The largest frame of the same shape that the picture fills.
fn shrunk(picture: &DynamicImage, width: u32, height: u32) -> (u32, u32) {
    let across = f64::from(picture.width()) / f64::from(width);
    let down = f64::from(picture.height()) / f64::from(height);
    let factor = across.min(down).min(1.0);
    let side = |length: u32| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is at most 800")]
        let side = (f64::from(length) * factor).round() as u32;
        NonZeroU32::new(side).unwrap_or(NonZeroU32::MIN).get()
    };
    (side(width), side(height))
}

#[cfg(test)]
mod tests {
    use image::{GenericImageView as _, Rgb, RgbImage, RgbaImage};

    use super::*;

    fn bytes_of(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).expect("it can be written");
        bytes.into_inner()
    }

    fn scaled(bytes: &[u8], width: u32, height: u32, fit: Fit) -> (u32, u32) {
        let small = scale(Cursor::new(bytes), &Wanted { width, height, fit }).expect("it is a picture");
        image::load_from_memory(&small.bytes).expect("it is one still").dimensions()
    }

    #[test]
    fn a_picture_gets_the_next_size_and_never_more_than_it_has() {
        let wide = bytes_of(RgbImage::new(1200, 300), ImageFormat::Png);
        assert_eq!(scaled(&wide, 300, 200, Fit::Scale), (320, 80));
        assert_eq!(scaled(&wide, 5000, 5000, Fit::Scale), (800, 200));
        assert_eq!(scaled(&wide, 90, 90, Fit::Crop), (96, 96));
        assert_eq!(scaled(&wide, 640, 480, Fit::Crop), (400, 300));
        let tiny = bytes_of(RgbImage::new(10, 20), ImageFormat::Gif);
        assert_eq!(scaled(&tiny, 96, 96, Fit::Scale), (10, 20));
        assert_eq!(scaled(&tiny, 96, 96, Fit::Crop), (10, 10));
        let line = bytes_of(RgbImage::new(4000, 1), ImageFormat::WebP);
        assert_eq!(scaled(&line, 96, 96, Fit::Scale), (96, 1));
        assert_eq!(scaled(&line, 96, 96, Fit::Crop), (1, 1));
    }

    #[test]
    fn what_is_see_through_stays_so() {
        let wanted = Wanted { width: 32, height: 32, fit: Fit::Scale };
        let clear = bytes_of(RgbaImage::new(50, 50), ImageFormat::Png);
        assert!(scale(Cursor::new(clear), &wanted).expect("it is a picture").is_png);
        let solid = bytes_of(RgbImage::from_pixel(50, 50, Rgb([9, 9, 9])), ImageFormat::Png);
        assert!(!scale(Cursor::new(solid), &wanted).expect("it is a picture").is_png);
    }

    /// The beginning of a PNG that promises so many pixels, and has none.
    fn png_of(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = bytes_of(RgbImage::new(1, 1), ImageFormat::Png);
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }

    #[test]
    fn a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded() {
        let wanted = Wanted { width: 32, height: 32, fit: Fit::Crop };
        for (width, height) in [(50_000, 50_000), (19_999, 19_999), (1, 4_000_000_000)] {
            let refused = scale(Cursor::new(png_of(width, height)), &wanted).err();
            assert!(matches!(refused, Some(ScaleError::TooLarge)), "{refused:?}");
        }
    }

    #[test]
    fn what_is_no_picture_or_ends_early_is_refused() {
        let wanted = Wanted { width: 32, height: 32, fit: Fit::Crop };
        let whole = bytes_of(RgbImage::new(300, 300), ImageFormat::Jpeg);
        let wrong: [&[u8]; 4] =
            [b"", b"<svg></svg>", &whole[..20], &bytes_of(RgbImage::new(9, 9), ImageFormat::Png)[..60]];
        for bytes in wrong {
            let refused = scale(Cursor::new(bytes), &wanted).err();
            assert!(matches!(refused, Some(ScaleError::NoPicture)), "{refused:?}");
        }
    }
}
