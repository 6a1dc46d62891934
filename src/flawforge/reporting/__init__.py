"""What people look at: the report, charts, overlays, contact sheets, the model card."""
