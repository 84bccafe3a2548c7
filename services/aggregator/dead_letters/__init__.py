"""Dead letters in Postgres: kept once each (`letter`, `store`, `keep`), shown, redriven and dropped (`commands`)."""
