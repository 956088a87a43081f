"""Plain transcriptions of what ddfast is compared with; they import nothing from ddfast."""
