from services.aggregator.app import main

raise SystemExit(main())
