from services.invoicer.app import main

raise SystemExit(main())
