//! Intel TDX quote and TD report layout, measurements, and the report-data formula.
